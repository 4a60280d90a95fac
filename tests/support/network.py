"""Hosts on a network of their own, each a network namespace with an address, joined by a bridge.

Owns those namespaces and the faults of the network between them: who hears nothing of whom, loss, delay.
Needs Linux and root. What runs on a host is another's business.
"""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Self

from tests.support import ROOT

CLIENTS: Final = "clients"
"""The host that is this machine itself, as the bridge calls it."""

_PREFIX: Final = "bw-"
_NUMBERS: Final = itertools.count()
_SWITCH: Final = "switch"
_NAMED: Final = Path("/run/netns")
_BENCHMARKS: Final = "198.18"
"""198.18.0.0/15 is for tests of networks (RFC 2544): no host of the internet has such an address."""


class Network:
    """`hosts`, each with an address, and this machine, which reaches them all. `close` removes everything.

    Frames to and from `distant` go through a program that can hold them back.
    """

    def __init__(self, hosts: Sequence[str], *, distant: str = "") -> None:
        _remove_leftovers()
        number = next(_NUMBERS)
        self._name = f"{_PREFIX}{os.getpid()}-{number}-"
        self._own = f"bw{os.getpid()}-{number}"  # 15 characters at most
        self._subnet = f"{_BENCHMARKS}.{_free_subnet()}"
        self._addresses = {host: f"{self._subnet}.{at}" for at, host in enumerate(hosts, 2)}
        self._wire: subprocess.Popen[bytes] | None = None
        self._rules: dict[str, str] = {}
        self._distant = distant
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def address(self, host: str) -> str:
        """The host's."""
        return self._addresses[host]

    def on(self, host: str) -> list[str]:
        """What to put before a command that is to run on that host. The program keeps its process id."""
        return ["nsenter", f"--net={_NAMED / self._namespace(host)}", "--"]

    def pids(self, host: str) -> list[int]:
        """The processes that run on that host."""
        return _pids(self._namespace(host))

    def drop(self, *, source: str, target: str) -> None:
        """From now on nothing that one host sends reaches the other; the other way is as it was."""
        self._rules[f"{source} {target}"] = _rule(source, target)
        self._apply()

    def cut(self, host: str, other: str) -> None:
        """The same in both directions."""
        self.drop(source=host, target=other)
        self.drop(source=other, target=host)

    def lose(self, percent: int) -> None:
        """Lose so many of a hundred packets, wherever they go."""
        self._rules["loss"] = f"ether type ip numgen random mod 100 < {percent} drop"
        self._apply()

    def delay(self, seconds: float) -> None:
        """Hold back all that goes to the distant host, and all that comes from it, for so long."""
        assert self._wire is not None
        assert self._wire.stdin is not None
        self._wire.stdin.write(f"{seconds}\n".encode())
        self._wire.stdin.flush()

    def mend(self) -> None:
        """Let everything through again."""
        self._rules.clear()
        self._apply()
        if self._wire is not None:
            self.delay(0)

    def close(self) -> None:
        """Remove the hosts. What runs on them must have been ended."""
        if self._wire is not None:
            self._wire.kill()
            self._wire.communicate()
            self._wire = None
        # First what a namespace's end would remove some time later.
        if Path(f"/sys/class/net/{self._own}").exists():
            _ip("link", "delete", self._own)
        for namespace in _namespaces(self._name):
            _ip("netns", "delete", namespace)

    def _namespace(self, host: str) -> str:
        return self._name + host

    def _build(self) -> None:
        switch = self._namespace(_SWITCH)
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge0", "type", "bridge", "forward_delay", "0")
        _ip("-n", switch, "link", "set", "bridge0", "up")
        _ip("link", "add", self._own, "type", "veth", "peer", "name", CLIENTS, "netns", switch)
        _ip("address", "add", f"{self._subnet}.1/24", "dev", self._own)
        _ip("link", "set", self._own, "up")
        _ip("-n", switch, "link", "set", CLIENTS, "master", "bridge0", "up")
        for host, address in self._addresses.items():
            namespace = self._namespace(host)
            _ip("netns", "add", namespace)
            if host == self._distant:
                self._wire = _wire(self.on(host), self.on(_SWITCH), host)
            else:
                ends = ("netns", namespace, "type", "veth", "peer", "name", host, "netns", switch)
                _ip("link", "add", "eth0", *ends)
            _ip("-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", namespace, "link", "set", "lo", "up")
            _ip("-n", namespace, "link", "set", "eth0", "up")
            _ip("-n", switch, "link", "set", host, "master", "bridge0", "up")

    def _apply(self) -> None:
        """All rules at once, on the bridge: the hosts themselves notice nothing but the silence."""
        lines = [
            *("table bridge wires", "delete table bridge wires", "table bridge wires {", "chain passing {"),
            "type filter hook forward priority 0; policy accept;",
            *self._rules.values(),
            *("}", "}", ""),
        ]
        subprocess.run([*self.on(_SWITCH), "nft", "-f", "-"], input="\n".join(lines).encode(), check=True)


def missing() -> str:
    """Why there can be no such network here; empty where there can be."""
    if os.name != "posix" or os.geteuid() != 0:
        return "network namespaces need root"
    for program, package in {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux"}.items():
        if shutil.which(program) is None:
            return f"network namespaces need {program}, of Debian's package {package}"
    if not Path("/dev/net/tun").exists():
        return "a distant host needs /dev/net/tun"
    try:
        with Network(["probe"], distant="probe") as network:
            network.lose(1)
    except (subprocess.CalledProcessError, RuntimeError) as error:
        return f"network namespaces are not allowed here ({error})"
    return ""


def _rule(source: str, target: str) -> str:
    # Of IP alone: without ARP every fault would be one of both ways, and routers carry none of it.
    return f'iifname "{source}" oifname "{target}" ether type ip drop'


def _wire(on_host: list[str], on_switch: list[str], port: str) -> subprocess.Popen[bytes]:
    """The program between a host and the bridge, which has both ends once this returns."""
    paths = [each[1].removeprefix("--net=") for each in (on_host, on_switch)]
    command = [sys.executable, "-m", "tests.support.wire", paths[0], "eth0", paths[1], port]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        process.kill()
        process.communicate()
        raise RuntimeError(f"{' '.join(command)} has ended")
    return process


def _free_subnet() -> int:
    """A third byte of the addresses that no network of another test has now."""
    used = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    first = os.getpid() * 37 % 200  # those of pytest-xdist follow each other, and may look at the same time
    return next(at for at in range(first, 256) if f"{_BENCHMARKS}.{at}." not in used)


def _namespaces(prefix: str) -> Iterator[str]:
    if _NAMED.is_dir():
        yield from sorted(each.name for each in _NAMED.iterdir() if each.name.startswith(prefix))


def _pids(namespace: str) -> list[int]:
    """The processes that run in it."""
    command = ["ip", "netns", "pids", namespace]
    return [int(each) for each in subprocess.check_output(command, text=True).split()]


def _remove_leftovers() -> None:
    """Remove the networks of tests that were killed, and end what those left running on their hosts."""
    for namespace in _namespaces(_PREFIX):
        pid = namespace.removeprefix(_PREFIX).partition("-")[0]
        if Path(f"/proc/{pid}").exists():
            continue
        with contextlib.suppress(subprocess.CalledProcessError):  # other tests may be removing it, too
            for each in _pids(namespace):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            _ip("netns", "delete", namespace)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, stdout=subprocess.DEVNULL)
