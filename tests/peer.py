"""One of several processes that only ask each other: `peer.py PORT INDEX COUNT [VICTIM]`.

The victim asks itself to stop at the 20th question, and kills itself at the 40th.
"""

import os
import signal
import sys
import time

from sentiment_jax import main
from sentiment_jax.runtime import devices, launch
from sentiment_jax.training.signals import Stop

ENDS = {20: signal.SIGTERM, 40: signal.SIGKILL}


def dispatch():
    port, index, count, victim = map(int, [*sys.argv[1:], -1][:4])
    group = launch.find_process_group(f"localhost:{port}", index, count)
    if not launch.follow_parent():
        sys.exit(launch.run_child(group, lost_after=5))
    launch.connect(group, lost_after=5)
    stopped = False
    with Stop() as stop:
        for question in range(2000):
            assert bool(devices.any_of(index == 1)), "the others heard nothing"
            if index == victim and question in ENDS:
                os.kill(os.getpid(), ENDS[question])
            if stop.asked() and not stopped:
                print("stops at", question, file=sys.stderr)
                stopped = True
            time.sleep(0.02)


if __name__ == "__main__":
    main.parse = lambda arguments: None
    main.dispatch = dispatch
    sys.exit(main.main([]))
