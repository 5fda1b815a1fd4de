"""SIGTERM, SIGHUP, Ctrl-C and the end of the given time as a request to save and stop.

training/fit.py asks after each step and saves, and main.py exits with 143.
"""

import contextlib
import math
import os
import signal
import sys
import time
from types import FrameType
from typing import Any

from sentiment_jax.runtime import devices, launch, processes


class Stop:
    """Turns a signal, or the end of its time, into a request; a second signal exits at once."""

    def __init__(self, after: float | None = None) -> None:
        """Begin to count the time, `after` seconds, if there is a limit."""
        self.remedy = "run the same command to continue"
        self.signalled = False  # whether a signal has come to this process
        self._since = 0.0  # of the signal, in seconds
        self._end = math.inf if after is None else time.monotonic() + after
        self._posted: Any = False
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether this process is asked to save and stop."""
        return self.signalled or time.monotonic() >= self._end

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signalled:
            # SLURM and systemd signal every process they know: of several processes, this one hears
            # of the same signal again from its parent (see runtime.launch).
            if processes.count() == 1 or time.monotonic() > self._since + 1:
                os._exit(143)
            return
        self._since = time.monotonic()
        self.signalled = True
        print("\nstopping after this step; a second signal exits at once", file=sys.stderr)

    def __enter__(self) -> "Stop":
        """Install the handlers (in the main thread; elsewhere signals stay as they are)."""
        with contextlib.suppress(ValueError):
            for number in launch.ASKS_TO_END:
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Return whether to stop; ask once per step, then all processes get the same answer.

        Several processes hear of the step before: waiting for this one's would idle the devices.
        """
        if processes.count() == 1:
            return self.requested
        earlier = self._posted
        self._posted = devices.any_of(self.requested)
        return bool(earlier)
