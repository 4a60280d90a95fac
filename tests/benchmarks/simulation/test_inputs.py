"""What a simulation is given: curves, a network's speed, costs; and what is said of those that can't be."""

from pathlib import Path

import pytest

from benchmarks.simulation import arrivals, costs
from benchmarks.simulation.__main__ import main
from benchmarks.simulation.arrivals import BadTimes, Curve
from benchmarks.simulation.costs import BadCosts, Costs
from benchmarks.simulation.network import NetworkSpeed


def test_a_curve_has_its_rate() -> None:
    assert list(Curve("constant", 4.0, 1.0).times(0)) == [0, 0.25, 0.5, 0.75]
    for curve in (Curve("poisson", 50.0, 400.0), Curve("day", 50.0, 400.0, peak=80.0)):
        times = list(curve.times(1))
        assert len(times) == pytest.approx(20_000, rel=0.03)
        assert times == sorted(times)
        assert times[-1] < 400


def test_a_day_has_its_peak_at_noon_and_a_night() -> None:
    day = Curve("day", 50.0, 240.0, peak=90.0)
    times = list(day.times(1))
    assert day.rate_at(120) == pytest.approx(90)
    assert day.rate_at(0) == pytest.approx(10)
    noon, night = (sum(low <= at < low + 20 for at in times) for low in (110, 0))
    assert noon == pytest.approx(20 * 90, rel=0.1)
    assert night < 0.25 * noon


def test_times_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "times"
    file.write_text("12.5\n10\n11\n")
    assert arrivals.read_times(file) == [0, 1, 2.5]
    file.write_text("1\nx\n")
    with pytest.raises(BadTimes, match="'x', number 2"):
        arrivals.read_times(file)
    with pytest.raises(BadTimes, match="can't be read"):
        arrivals.read_times(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "pictures", "mean_s"),
    [
        ("40+10n", 8, 0.12),
        ("25", 32, 0.025),
        ("1:10,9:50", 5, 0.03),
        ("1:10,9:50", 17, 0.09),
    ],
)
def test_a_speed_is_a_line_or_a_table(text: str, pictures: int, mean_s: float) -> None:
    assert NetworkSpeed.read(text).mean_s(pictures) == pytest.approx(mean_s)


@pytest.mark.parametrize("text", ["", "fast", "40+10", "10n", "8:30,1:10", "1:10,1:20", "0:5", "-4"])
def test_another_text_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ValueError, match="write milliseconds of a call"):
        NetworkSpeed.read(text)


def test_the_bundled_costs_are_whole_and_between_sizes_there_is_a_line() -> None:
    file = costs.read()
    assert file.processor
    assert [each.picture for each in file.pictures] == ["640x480", "1280x720", "1920x1080", "4000x3000"]
    at = {
        side: Costs.of(file, picture="1280x720", input_shape=(side, side, 3)).enqueue_s
        for side in (8, 224, 450, 640)
    }
    assert at[8] < at[224] < at[450] < at[640]
    values, middle, large = 450 * 450 * 3, file.inputs[1], file.inputs[2]
    share = (values - middle.values) / (large.values - middle.values)
    assert at[450] == pytest.approx(
        (middle.enqueue_us + share * (large.enqueue_us - middle.enqueue_us)) / 1e6
    )
    with pytest.raises(BadCosts, match="no picture '1x1' was measured; there are 640x480"):
        Costs.of(file, picture="1x1", input_shape=(8, 8, 1))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--call", "fast"], "write milliseconds of a call"),
        (
            ["run", "--call", "8:40"],
            "add a second size, or write 0+5n where each picture takes as long, 40 where",
        ),
        (["run", "--input", "224"], "write 224x224x3"),
        (["run", "--set", "PORT=1"], "not a setting that a simulation heeds"),
        (["run", "--set", "BATCH_SIZE=0"], "BATCH_SIZE"),
        (["run", "--picture", "1x1"], "no picture '1x1' was measured"),
        (["run", "--redis-nodes", "2"], "write --set QUEUE_SHARDS=2"),
        (["run", "--one-host", "--web-hosts", "2"], "leave --web-hosts out"),
        (["run", "--warmup", "60s"], "leaves nothing"),
        (["run", "--curve", "day", "--peak", "500"], "1 to 2 times --rate"),
        (["run", "--times", "/none"], "can't be read"),
    ],
)
def test_an_argument_that_can_t_be_is_one_sentence(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_a_run_is_a_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.json"
    assert main(["run", "--rate", "30", "--duration", "4s", "--json", str(file)]) == 0
    assert "saturate first" in capsys.readouterr().out
    assert '"answered_per_s"' in file.read_text()
