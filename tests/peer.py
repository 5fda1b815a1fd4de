"""One of several processes that only ask each other: `peer.py PORT INDEX COUNT [VICTIM]`.

At the 40th question the victim kills itself.
"""

import os
import signal
import sys
import time

from sentiment_jax import main
from sentiment_jax.runtime import devices, launch


def dispatch():
    port, index, count, victim = map(int, [*sys.argv[1:], -1][:4])
    group = launch.find_process_group(f"localhost:{port}", index, count)
    if not launch.follow_parent():
        sys.exit(launch.run_child(group, lost_after=5))
    launch.connect(group, lost_after=5)
    for question in range(2000):
        assert bool(devices.any_of(index == 1)), "the others heard nothing"
        if index == victim and question == 40:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)


if __name__ == "__main__":
    main.parse = lambda arguments: None
    main.dispatch = dispatch
    sys.exit(main.main([]))
