"""The command line: every option's notation, every contradiction, and no header in what is written down."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.cli.options import CheckLedger, Compare, Options, parse
from loadtest.sending.messages import Load


@pytest.fixture(scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a template, broken ones and a folder of its own; nothing is written to it."""
    folder = tmp_path_factory.mktemp("options")
    (folder / "folder").mkdir()
    (folder / "body.json").write_text('{"image": "$image_base64", "cost": "$$1"}')
    (folder / "unknown.json").write_text('{"$schema": "$image_base64"}')
    (folder / "latin.json").write_bytes(b"\xff")
    return folder


@pytest.fixture(autouse=True)
def _current(_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(_folder)


def options(*arguments: str) -> Options:
    found = parse(list(arguments))
    assert isinstance(found, Options)
    return found


def open_loop(*rates: float, poisson: bool = False) -> tuple[Load, ...]:
    return tuple(Load(rate, is_open=True, poisson=poisson) for rate in rates)


def closed_loop(*clients: float) -> tuple[Load, ...]:
    return tuple(Load(each, is_open=False) for each in clients)


SEARCH = ("--search", "--slo", "p99=1s", "--rate", "10,200")


@pytest.mark.parametrize(
    ("arguments", "read", "value"),
    [
        ((), lambda o: o.traffic.paths, ()),
        (("a.jpg", "folder"), lambda o: [Path(path) for path in o.traffic.paths], ["a.jpg", "folder"]),
        ((), lambda o: (o.traffic.draw, o.traffic.draw_count), ((640, 480), 8)),
        (("--draw", "32x24"), lambda o: o.traffic.draw, (32, 24)),
        (("--draw-count", "3"), lambda o: o.traffic.draw_count, 3),
        ((), lambda o: o.traffic.models, (("", 1.0),)),
        (("--model", "a=3,b=1"), lambda o: o.traffic.models, (("a", 0.75), ("b", 0.25))),
        ((), lambda o: o.target.top, None),
        (("--top", "5"), lambda o: o.target.top, 5),
        ((), lambda o: o.traffic.polled, 0),
        (("--async",), lambda o: o.traffic.polled, 1),
        (("--async", "25%"), lambda o: o.traffic.polled, 0.25),
        ((), lambda o: o.traffic.expect, ""),
        (("--expect", "l.csv"), lambda o: Path(o.traffic.expect), "l.csv"),
        (("--seed", "7"), lambda o: o.traffic.seed, 7),
        (("--seed", "-7"), lambda o: o.traffic.seed, -7),
        ((), lambda o: o.loads, open_loop(20)),
        (("--rate", "10:30:10"), lambda o: o.loads, open_loop(10, 20, 30)),
        (("--rate", "5", "--poisson"), lambda o: (o.loads, o.poisson), (open_loop(5, poisson=True), True)),
        (("--poisson",), lambda o: o.loads, open_loop(20, poisson=True)),
        (("--concurrency", "1,8"), lambda o: o.loads, closed_loop(1, 8)),
        (("--concurrency", "9", "--connections", "9"), lambda o: o.loads, closed_loop(9)),
        ((), lambda o: (o.requests, o.duration_s, o.warmup_s), (500, None, 0)),
        (("--requests", "7"), lambda o: (o.requests, o.duration_s), (7, None)),
        (("--duration", "2m"), lambda o: (o.requests, o.duration_s), (None, 120)),
        (("--duration", "3s", "--requests", "7"), lambda o: (o.requests, o.duration_s), (7, 3)),
        (("--duration", "3s", "--warmup", "2s"), lambda o: (o.duration_s, o.warmup_s), (5, 2)),
        (("--rate", "1,2"), lambda o: (o.requests, o.duration_s, o.warmup_s), (None, 11, 1)),
        (("--rate", "1,2", "--requests", "7"), lambda o: (o.requests, o.duration_s), (7, None)),
        (("--stable", "5%"), lambda o: (o.stable, o.requests, o.duration_s), (0.05, None, 60)),
        (("--stable", "5%", "--duration", "9"), lambda o: o.duration_s, 9),
        ((), lambda o: (o.stable, o.window_s), (None, 2)),
        (("--window", "500ms"), lambda o: o.window_s, 0.5),
        ((), lambda o: (o.slo, o.searches), (None, False)),
        (("--slo", "p99=1s"), lambda o: (o.searches, o.loads, o.duration_s), (True, (), 11)),
        (("--slo", "p99=1s", "--rate", "9"), lambda o: (o.searches, o.loads), (False, open_loop(9))),
        (("--slo", "p99=1s", "--concurrency", "9"), lambda o: o.searches, False),
        (SEARCH, lambda o: (o.searches, o.loads, o.within), (True, open_loop(10, 200), 0.05)),
        ((*SEARCH, "--within", "1%"), lambda o: o.within, 0.01),
        (("--processes", "3"), lambda o: o.processes, 3),
        ((), lambda o: (o.target.url, o.target.check), ("http://localhost:5000", "predictions")),
        (("--url", "https://h/p"), lambda o: (o.target.url, o.target.check), ("https://h/p", "status")),
        (("--url", "https://h/p", "--label", "a"), lambda o: o.target.check, "label"),
        (("--label", "max(scores)"), lambda o: o.target.label, "max(scores)"),
        (("--field", "file"), lambda o: o.target.field, "file"),
        ((), lambda o: (o.target.field, o.target.body), ("image", "multipart")),
        (("--body", "raw"), lambda o: o.target.body, "raw"),
        (("--body", "body.json"), lambda o: o.target.body, '{"image": "$image_base64", "cost": "$$1"}'),
        (("--header", "A: b:c ", "--header=D:"), lambda o: o.target.headers, (("A", "b:c"), ("D", ""))),
        ((), lambda o: (o.target.timeout_s, o.target.connections), (15, 1000)),
        (("--timeout", "2s"), lambda o: o.target.timeout_s, 2),
        ((), lambda o: o.target.keep_alive, True),
        (("--no-keep-alive",), lambda o: o.target.keep_alive, False),
        ((), lambda o: (o.json, o.csv, o.report, o.ledger), (None,) * 4),
    ],
)
def test_notation(arguments: tuple[str, ...], read: Callable[[Options], object], value: object) -> None:
    found = read(options(*arguments))
    if isinstance(found, Path):
        assert (found.is_absolute(), found) == (True, Path(str(value)).absolute())
    elif isinstance(found, list):
        assert isinstance(value, list)
        assert found == [Path(path).absolute() for path in value]
    else:
        assert found == value


@pytest.mark.parametrize("name", ["json", "csv", "report", "ledger"])
def test_outputs(name: str) -> None:
    assert getattr(options(f"--{name}", "out"), name) == Path("out")


@pytest.mark.parametrize(("cores", "processes"), [(None, 1), (1, 1), (2, 1), (6, 3), (64, 4)])
def test_half_the_cores_send(cores: int | None, processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert options().processes == processes


def test_the_objective_is_read() -> None:
    slo = options("--slo", "p99=200ms,errors=1%", "--rate", "5").slo
    assert slo
    assert (slo.latencies_s, slo.errors) == ({99.0: 0.2}, 0.01)


def test_options_may_stand_between_pictures() -> None:
    mixed = options("a.jpg", "--rate", "20", "b.jpg")
    assert [Path(path).name for path in mixed.traffic.paths] == ["a.jpg", "b.jpg"]
    dashed = options("--rate", "20", "--", "-a.jpg")
    assert [Path(path).name for path in dashed.traffic.paths] == ["-a.jpg"]


def test_reading_takes_the_place_of_a_run() -> None:
    assert parse(["--compare", "a", "b"]) == Compare(Path("a"), Path("b"), 0.1)
    assert parse(["--compare", "a", "b", "--tolerance", "5%"]) == Compare(Path("a"), Path("b"), 0.05)
    assert parse(["--check-ledger", "a", "--expect", "l.csv"]) == CheckLedger(Path("a"), "l.csv")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--rate 20 --concurrency 2", "--concurrency: not allowed with argument --rate"),
        ("--rate 0", "--rate: '0' is not a number"),
        ("--rate inf", "--rate: 'inf' is not a number"),
        ("--rate 2:1:1", "--rate: '2:1:1' is not a range"),
        ("--concurrency 1.5", "--concurrency takes whole numbers"),
        ("--concurrency 1,1001", r"--concurrency takes .* up to --connections \(1000\)"),
        ("--concurrency 3 --connections 2", r"--connections \(2\)"),
        ("--concurrency 3 --poisson", "--poisson .* --concurrency"),
        ("--timeout nan", "--timeout: 'nan' is not a duration"),
        ("--timeout 0", "--timeout must be above 0"),
        ("--duration 0s", "--duration must be above 0"),
        ("--window 0", "--window must be above 0"),
        ("--warmup x", "--warmup: 'x' is not a duration"),
        ("--requests -1", "--requests"),
        ("--requests 0", "--requests: '0' is not a whole number"),
        ("--top x", "--top: 'x' is not a whole number"),
        ("--processes 0", "--processes: '0' is not a whole number"),
        ("--connections 0", "--connections: '0' is not a whole number"),
        ("--draw 640", "--draw: '640' is not a picture size"),
        ("--draw-count 0", "--draw-count: '0' is not a whole number"),
        ("--model a,a", "--model: 'a,a' is not a list of models"),
        ("--async=101%", "--async: '101%' is not a share"),
        ("--seed x", "--seed: invalid int"),
        ("--slo q9=1s", "--slo: 'q9=1s' is not an objective"),
        ("--slo p99", "--slo: a latency needs its unit"),
        ("--stable 0", "--stable must be above 0"),
        ("--stable 5% --requests 7", "--stable .* not --requests"),
        ("--slo p99=1s --requests 7", "--duration, not --requests"),
        ("--slo p99=1s --within 0", "--within must be above 0"),
        ("--search", "--search needs --slo and two rates"),
        ("--search --slo p99=1s", "--search needs --slo and two rates"),
        ("--search --rate 1,2", "--search needs --slo and two rates"),
        ("--search --slo p99=1s --rate 1", "--search needs --slo and two rates"),
        ("--search --slo p99=1s --rate 1,2,3", "--search needs --slo and two rates"),
        ("--search --slo p99=1s --concurrency 1,2", "--search needs --slo and two rates"),
        ("--search --slo p99=1s --rate 2,1", "--search needs the lower .* first"),
        ("--search --slo p99=1s --rate 2,2", "--search needs the lower .* first"),
        ("--url localhost:5000", "--url localhost:5000: write http"),
        ("--url ftp://host/x", "--url"),
        ("--url http:///x", "--url"),
        ("--url http://[::1", "--url"),
        ("--url http://host:65536", "--url"),
        ("--url http://host:0", "--url"),
        ("--url http://user:secret@host", "--url may not have a user or a password"),
        ("--url http://secret@host/x", "--url may not have a user or a password"),
        ("--header secret", "--header must be NAME:VALUE"),
        ("--header :secret", "--header must be NAME:VALUE"),
        ("--api-key bw_abc_secret", "--api-key names no variable and no @FILE with a key"),
        ("--api-key @none", "--api-key @none can.t be read: FileNotFoundError"),
        ("--body none.json", "--body none.json is not multipart, raw or a file"),
        ("--body unknown.json", "--body unknown.json is not .*: 'schema'"),
        ("--body latin.json", "--body latin.json is not"),
        ("--label [", "--label .* is not a JMESPath expression: "),
        ("--label nothing(@)", "--label .* is not a JMESPath expression: "),
        ("--label max(a,b)", "--label .* is not a JMESPath expression: "),
        ("--url http://host/x --expect l.csv", "--expect needs --label"),
        ("--url http://host/x --model m", "--model is not used: write {model} into --url"),
        ("--url http://host/{model}", "--url has {model}: choose one with --model"),
        ("--url http://host/x --async", "--async is for a Batchwire server"),
        ("--json folder", "--json folder can't be written"),
        ("--csv none/x", "--csv none/x can't be written"),
        ("--report none/x", "--report none/x can't be written"),
        ("--ledger none/x", "--ledger none/x can't be written"),
        ("--compare a", "--compare: expected 2 arguments"),
        ("--compare a b --tolerance x", "--tolerance: 'x' is not a share"),
        ("--reqests 5", "unrecognized arguments: --reqests"),
        ("--heade=A:b", "unrecognized arguments"),
    ],
)
def test_wrong_usage_exits_with_2_and_names_the_option(
    arguments: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(arguments.split())
    said = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("stress_test.py: "))
    assert caught.value.code == 2
    assert re.search(named, said), said
    assert "secret" not in said


@pytest.mark.parametrize(
    "header",
    [
        ["--header", "Authorization: secret"],
        ["--header=Authorization: secret"],
        ["--header=Authorization=secret:a=secret"],
        ["--header", "A:secret", "--header", "B:secret"],
        ["--header", "A:secret", "--header=B:secret"],
        ["--head", "A:secret"],
        ["--he=A:secret"],
        ["--heade", "A:secret"],
    ],
)
def test_a_header_is_never_written_down(header: list[str]) -> None:
    try:
        command = options("a.jpg", *header, "--rate", "5").command
    except SystemExit:  # a spelling that is not allowed can't leak
        assert header[0].split("=")[0] != "--header"
        return
    assert "secret" not in " ".join(command)
    assert (command[0], command[1][:8], *command[-2:]) == ("a.jpg", "--header", "--rate", "5")
    assert " ".join(command).count("***") == " ".join(header).count("--header")


def test_an_api_key_comes_from_a_variable_or_a_file_and_is_never_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "secret")
    file = tmp_path / "key"
    file.write_text("secret\n")
    for place in ("A_KEY", f"@{file}"):
        found = options("a.jpg", "--api-key", place)
        assert found.target.headers == (("X-API-Key", "secret"),)
        assert "secret" not in " ".join(found.command)
    assert options("a.jpg", "--api-key=A_KEY").command[1] == "--api-key=***"


def test_help_names_every_default_and_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    assert "all, or a share, for example 25%" in " ".join(capsys.readouterr().out.split())
