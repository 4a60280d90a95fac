"""`python -m tests.support.wire NAMESPACE DEVICE NAMESPACE DEVICE`: a wire of two hosts that can be long.

Makes a device (TAP) in each network namespace and carries Ethernet frames between them, each after so many
seconds as the last line of standard input says. Not every kernel has netem. Owns nothing but the frames on
their way; the kernel's own TCP meets the delay.
"""

import collections
import ctypes
import fcntl
import os
import select
import struct
import sys
import time
from typing import Final

_TUNSETIFF: Final = 0x400454CA
_TAP_WITHOUT_HEADER: Final = 0x0002 | 0x1000
_CLONE_NEWNET: Final = 0x40000000
_FRAME_BYTES: Final = 65536


def _device(namespace: str, name: str) -> int:
    """Make a TAP device there; it lives until the file that is returned is closed."""
    with open(namespace, "rb") as there:
        if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"can't enter {namespace}")
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP_WITHOUT_HEADER))
    return file


def main(ends: list[int]) -> None:
    """Carry frames until standard input ends."""
    on_their_way: collections.deque[tuple[float, int, bytes]] = collections.deque()
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    delay_s = 0.0
    stdin = sys.stdin.fileno()
    while True:
        wait_s = max(0.0, on_their_way[0][0] - time.monotonic()) if on_their_way else None
        readable, _, _ = select.select([*ends, stdin], [], [], wait_s)
        now = time.monotonic()
        if stdin in readable:
            # Not `readline`: what it has read beyond a line no `select` shows.
            lines = os.read(stdin, _FRAME_BYTES).splitlines()
            if not lines:
                return
            delay_s = float(lines[-1])
        for end in ends:
            if end in readable:
                on_their_way.append((now + delay_s, other[end], os.read(end, _FRAME_BYTES)))
        while on_their_way and on_their_way[0][0] <= time.monotonic():
            _, end, frame = on_their_way.popleft()
            try:
                os.write(end, frame)
            except OSError:
                continue  # a device that is down, or whose queue is full, loses a frame


if __name__ == "__main__":
    both = [_device(*sys.argv[at : at + 2]) for at in (1, 3)]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    main(both)
