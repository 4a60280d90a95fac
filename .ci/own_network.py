"""`unshare --net python3 .ci/own_network.py COMMAND...`: run a command in a network that has only a loopback.

Owns bringing that loopback up, for which a machine may have no program. Imports nothing of the project.
"""

import fcntl
import os
import socket
import struct
import sys

SIOCSIFFLAGS = 0x8914
IFF_UP, IFF_RUNNING = 0x1, 0x40

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
    fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP | IFF_RUNNING))
os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - the command line is CI's own
