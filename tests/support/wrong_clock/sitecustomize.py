"""A wrong time of day for a Python program: Python imports this by its name from a folder of PYTHONPATH.

Adds CLOCK_OFFSET_S to `time.time`; no other clock changes, as on a host that was set wrongly. libfaketime
0.9.10 can't do that: a sleep of a program whose monotonic clock it leaves alone fails with EINVAL.
"""

import os
import time

_OFFSET_NS = round(float(os.environ["CLOCK_OFFSET_S"]) * 1e9)
_right_time_ns = time.time_ns


def _time_ns() -> int:
    return _right_time_ns() + _OFFSET_NS


def _time() -> float:
    return _time_ns() / 1e9


time.time, time.time_ns = _time, _time_ns
