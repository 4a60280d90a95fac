"""The network of these tests does to packets what it says, and is gone afterwards."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import tests.support.network
from tests.support import ROOT
from tests.support.network import CLIENTS, Network
from tests.support.waiting import eventually

pytestmark = [pytest.mark.network, pytest.mark.timeout(60)]

HOST = "far"
PORT = 9

COUNTING = """\
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], int(sys.argv[2])))
count = 0
while True:
    _, client = server.recvfrom(100)
    count += 1
    server.sendto(str(count).encode(), client)
"""
"""A host that answers each packet with how many it has had."""

LEFT_BEHIND = """\
import subprocess, sys, time
from tests.support.network import Network
network = Network(["left"])
subprocess.Popen([*network.on("left"), "sleep", "1000"])
while not network.pids("left"):
    time.sleep(0.01)
print(network.pids("left"), flush=True)
time.sleep(1000)
"""


@pytest.fixture
def network() -> Iterator[Network]:
    """A network of one distant host, which counts."""
    with Network([HOST], distant=HOST) as made:
        command = [*made.on(HOST), sys.executable, "-c", COUNTING, made.address(HOST), str(PORT)]
        counting = subprocess.Popen(command)
        try:
            eventually(lambda: bool(_sent(made, 1)))
            yield made
        finally:
            counting.kill()
            counting.wait()


def _sent(network: Network, packets: int, *, wait_s: float = 0.5) -> list[int]:
    """What a host answered to so many packets."""
    answers: list[int] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client, contextlib.suppress(TimeoutError):
        client.settimeout(wait_s)
        for _ in range(packets):
            client.sendto(b"?", (network.address(HOST), PORT))
        while len(answers) < packets:
            answers.append(int(client.recv(100)))
    return answers


def test_each_direction_is_cut_alone(network: Network) -> None:
    (before,) = _sent(network, 1)
    network.drop(source=CLIENTS, target=HOST)
    assert _sent(network, 5) == []
    network.mend()
    assert _sent(network, 1) == [before + 1]
    network.drop(source=HOST, target=CLIENTS)
    assert _sent(network, 5) == []
    network.mend()
    assert _sent(network, 1) == [before + 7]
    network.cut(HOST, CLIENTS)
    assert _sent(network, 5) == []
    network.mend()
    assert _sent(network, 1) == [before + 8]


def test_some_packets_are_lost(network: Network) -> None:
    network.lose(20)
    # 36 of a hundred on average, for each way counts; in steps that no buffer is too small for.
    answered = sum(len(_sent(network, 20)) for _ in range(10))
    assert 90 < answered < 165


def test_packets_are_held_back(network: Network) -> None:
    network.delay(0.1)
    began = time.monotonic()
    assert len(_sent(network, 1, wait_s=20)) == 1
    assert time.monotonic() - began >= 0.2


def test_of_many_delays_the_last_one_holds(network: Network) -> None:
    for _ in range(100):
        network.delay(5)
    network.delay(0)
    eventually(lambda: bool(_sent(network, 1)))


def test_what_another_test_removes_at_the_same_time_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    left = f"bw-{_ended_pid()}-0-left"
    subprocess.run(["ip", "netns", "add", left], check=True)

    def removed_meanwhile(namespace: str) -> list[int]:
        subprocess.run(["ip", "netns", "delete", namespace], check=True)
        return []

    monkeypatch.setattr(tests.support.network, "_pids", removed_meanwhile)
    with Network(["next"]):
        assert not Path("/run/netns", left).exists()


def _ended_pid() -> int:
    with subprocess.Popen(["true"]) as process:
        return process.pid


def test_the_network_of_a_killed_test_is_removed_by_another() -> None:
    command = [sys.executable, "-c", LEFT_BEHIND]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        try:
            (left,) = map(int, killed.stdout.readline().strip("[]\n").split(","))
            assert Path(f"/proc/{left}").exists()  # and from then on any test's network may end it
        finally:
            killed.kill()
    with Network(["next"]):
        names = [each.name for each in Path("/run/netns").iterdir()]
    assert not [name for name in names if name.startswith(f"bw-{killed.pid}-")]
    eventually(lambda: not Path(f"/proc/{left}").exists())
