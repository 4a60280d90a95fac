"""What coordinator and client processes say to each other survives the way, a line each."""

import msgspec
import pytest

from loadtest.sending.messages import (
    Begin,
    ClientReady,
    Command,
    Halt,
    Load,
    LoadEnd,
    LoadPlan,
    PlanRefusal,
    Record,
    Records,
    Report,
    Target,
    Traffic,
    decode_command,
    decode_report,
    encode,
)

TRAFFIC = Traffic(paths=("a\n.jpg",), models=(("é", 0.5), ("", 0.5)), polled=0.5, seed=-(10**30))
RECORD = Record(10**9, "a.jpg", "m", 1.25, outcome="timeout", stages_ms={"a": 0.5}, polled=True)


@pytest.mark.parametrize(
    ("load", "name"),
    [
        (Load(20, is_open=True), "20/s"),
        (Load(0.5, is_open=True), "0.5/s"),
        (Load(20, is_open=True, poisson=True), "20/s Poisson"),
        (Load(1, is_open=False), "1 client"),
        (Load(8, is_open=False), "8 clients"),
    ],
)
def test_a_load_is_named_as_people_say_it(load: Load, name: str) -> None:
    assert load.name == name


@pytest.mark.parametrize(
    "command",
    [
        LoadPlan(Target("http://h", headers=(("A", "b"),)), TRAFFIC, {"m": (0, 5)}),
        Begin(Load(20, is_open=True, poisson=True), 123456.789, None, 7, 1, 2),
        Halt(abandon=True),
    ],
)
def test_commands_arrive(command: Command) -> None:
    line = encode(command)
    assert b"\n" not in line
    assert decode_command(line) == command


@pytest.mark.parametrize(
    "report",
    [
        ClientReady(),
        Records([RECORD]),
        LoadEnd(3, 1.5, 4, 0.1, 0.2, [0.1, 0.2, 0.3]),
        PlanRefusal("no\nlabel"),
    ],
)
def test_reports_arrive(report: Report) -> None:
    line = encode(report)
    assert b"\n" not in line
    assert decode_report(line) == report


def test_what_is_neither_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_command(encode(ClientReady()))
    with pytest.raises(msgspec.ValidationError):
        decode_report(encode(Halt()))
