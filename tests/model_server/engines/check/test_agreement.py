"""What counts as the same answer, and the refusal of an engine that gives another."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue.model_toml import Activation
from model_server.engines.check import agreement
from model_server.engines.check.agreement import Reference, Tolerance
from model_server.engines.check.final_operation import Ending
from tests.model_server.engines import tiny

LOOSE = Tolerance(peak=0.1, log=0.1)


def _rows(*rows: list[float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32)


def test_what_is_the_same_agrees() -> None:
    right = _rows([0.7, 0.2, 0.1], [0.1, 0.1, 0.8])
    verdict = agreement.compare((right,), (right.copy(),), Tolerance(0, 0))
    assert (verdict.agrees, verdict.same_top1, verdict.peak, verdict.log) == (True, 2, 0, 0)


def test_the_peak_is_a_share_of_the_largest_output() -> None:
    verdict = agreement.compare((_rows([4.0, -2.0]),), (_rows([4.0, -1.8]),), LOOSE)
    assert verdict.peak == pytest.approx(0.05)
    assert verdict.log == 0  # a negative output is no probability
    assert verdict.agrees
    assert not agreement.compare((_rows([0.004, 0.002]),), (_rows([0.004, 0.0025]),), LOOSE).agrees


def test_what_a_sure_network_hides_shows_in_the_logarithms() -> None:
    right, found = _rows([1.0, 1e-6, 1e-9]), _rows([1.0, 1e-9, 1e-6])
    verdict = agreement.compare((right,), (found,), LOOSE)
    assert verdict.peak < 1e-5
    assert verdict.log > 0.3
    assert not verdict.agrees


def test_a_picture_that_leaves_the_network_unsure_counts_by_the_others() -> None:
    right = _rows([0.45, 0.1, 0.45], [0.995, 0.0003, 0.0047])
    found = _rows([0.4455, 0.1, 0.4545], [0.995, 0.0003, 0.0047])
    verdict = agreement.compare((right,), (found,), agreement.TOLERANCES["bf16"])
    assert verdict.log == pytest.approx(0.01 / 8.1, rel=0.1)
    # Alone it has nothing to be compared with but its own range.
    assert agreement.compare((right[:1],), (found[:1],), LOOSE).log > 0.006


def test_a_lead_within_the_tolerance_is_a_tie_and_a_larger_one_is_not() -> None:
    right = _rows([0.36, 0.34, 0.3])
    assert agreement.compare((right,), (_rows([0.34, 0.36, 0.3]),), LOOSE).agrees
    clear = agreement.compare((_rows([0.50, 0.40, 0.1]),), (_rows([0.45, 0.46, 0.09]),), Tolerance(0.15, 1))
    assert (clear.agrees, clear.same_top1, clear.peak < 0.15) == (False, 0, True)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_never_agrees(bad: float) -> None:
    right = _rows([0.9, 0.1])
    assert not agreement.compare((right, right), (right, _rows([0.9, bad])), Tolerance(1, 1)).agrees


def test_every_output_is_compared() -> None:
    right, box, wrong = _rows([0.9, 0.1]), _rows([-3.0, 5.0]), _rows([-3.0, 7.0])
    assert agreement.compare((right, box), (right, box), LOOSE).agrees
    assert agreement.compare((right, box), (right, wrong), LOOSE).peak == pytest.approx(0.4)


def test_an_engine_that_disagrees_is_refused_with_the_numbers(tmp_path: Path) -> None:
    spec = tiny.spec(tmp_path)
    pictures = np.zeros((2, 2, 2, 1), np.uint8)
    reference = Reference(pictures, (_rows([0.7, 0.2, 0.1], [0.1, 0.1, 0.8]),))
    assert agreement.require(spec, "fast", "fp32", reference, lambda _: reference.outputs).agrees
    with pytest.raises(ModelUnavailable, match="same top-1 on 1 of 2 pictures") as refused:
        agreement.require(
            spec, "fast", "bf16", reference, lambda _: (_rows([0.7, 0.2, 0.1], [0.8, 0.1, 0.1]),)
        )
    assert refused.value.message.startswith("tiny: fast in bf16 does not compute what plain Keras does")
    assert "0.88 of the peak (at most 0.1)" in refused.value.message
    with pytest.raises(ModelUnavailable, match=r"shapes are \[\(2, 4\)\]"):
        agreement.require(spec, "fast", "fp32", reference, lambda _: (np.ones((2, 4), np.float32),))


def test_less_precision_may_differ_more() -> None:
    exact, half, int8 = (agreement.TOLERANCES[each] for each in ("fp32", "bf16", "int8"))
    assert exact.peak < half.peak < int8.peak
    assert exact.log < half.log < int8.log


def test_nan_is_told_as_what_it_is(tmp_path: Path) -> None:
    words = r"^tiny: the network gives NaN .* Either its weights are wrong, or .* normalise in model\.toml"
    with pytest.raises(ModelUnavailable, match=words) as refused:
        agreement.require_probabilities(tiny.spec(tmp_path), _rows([0.7, 0.2, 0.1], [np.nan, 0.1, 0.8]))
    assert "logits" not in refused.value.message


def test_what_lies_outside_is_told_with_the_way_out(tmp_path: Path) -> None:
    for numbers, told in ((_rows([-2, 7.5, 1]), "from -2 to 7.5"), (_rows([0, 1, np.inf]), "from 0 to inf")):
        with pytest.raises(ModelUnavailable, match=rf'{told}, not probabilities.*activation = "softmax"'):
            agreement.require_probabilities(tiny.spec(tmp_path), numbers)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_an_activation_on_top_of_probabilities_is_refused(tmp_path: Path, activation: Activation) -> None:
    spec = replace(tiny.spec(tmp_path), activation=activation)
    rounded = _rows([0.7, 0.2, 0.095], [0.1, 0.1, 0.8], [1, 0, 0])
    words = rf'probabilities already, and activation = "{activation}".*Remove that line from \[output\]'
    with pytest.raises(ModelUnavailable, match=words):
        agreement.require_logits(spec, rounded, "probabilities")


@pytest.mark.parametrize("ends_in", ["logits", "unknown"])
def test_a_softmax_is_known_by_its_sums_whatever_the_graph_tells(tmp_path: Path, ends_in: Ending) -> None:
    spec = replace(tiny.spec(tmp_path), activation="softmax")
    with pytest.raises(ModelUnavailable, match="probabilities already"):
        agreement.require_logits(spec, _rows([0.7, 0.2, 0.095], [0.1, 0.1, 0.8]), ends_in)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("numbers", [_rows([0.7, 0.9, 0.1], [0.1, 0.1, 0.2]), _rows([0.4], [0.6])])
def test_a_sigmoid_is_known_by_the_graph_though_no_row_adds_up(
    tmp_path: Path, activation: Activation, numbers: NDArray[np.float32]
) -> None:
    spec = replace(tiny.spec(tmp_path), activation=activation)
    with pytest.raises(ModelUnavailable, match="probabilities already"):
        agreement.require_logits(spec, numbers, "probabilities")


@pytest.mark.parametrize(("ends_in", "warnings"), [("logits", 0), ("unknown", 1)])
def test_small_logits_are_at_most_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ends_in: Ending, warnings: int
) -> None:
    spec = replace(tiny.spec(tmp_path), activation="sigmoid")
    # Of two questions that are answered by yes for 60 and 65 of 100 pictures: their logits happen to add up.
    agreement.require_logits(spec, _rows([0.4, 0.6], [0.41, 0.59], [0.39, 0.6]), ends_in)
    assert [each.levelname for each in caplog.records] == ["WARNING"] * warnings
    assert all('remove activation = "sigmoid" from [output]' in each.message for each in caplog.records)


@pytest.mark.parametrize(
    ("activation", "numbers"),
    [
        ("none", _rows([0.7, 0.2, 0.1], [0.1, 0.1, 0.8])),
        ("softmax", _rows([0.7, 0.2, 0.1], [0.1, 0.1, 0.2])),  # the one adds up by chance
        ("softmax", _rows([1.5, -0.3, -0.2], [0.1, 0.1, 0.8])),
        ("softmax", _rows([0, 0, 0], [0, 0, 0])),
        ("sigmoid", _rows([0, 0, 0], [0, 0, 0])),
        ("sigmoid", _rows([0.7, 0.9, 1.1], [0.1, 0.1, 0.2])),
        ("softmax", _rows([1], [1])),
        ("sigmoid", _rows([0.7, 0.2, 0.1], [0.1, 0.1, 0.8])),
        ("sigmoid", _rows([0.4], [0.6])),  # one class: a little logit is no surprise
        ("softmax", _rows([np.nan, 0.5, 0.5], [0.1, 0.1, 0.8])),
    ],
)
def test_logits_are_taken_for_logits(
    tmp_path: Path, activation: Activation, numbers: NDArray[np.float32]
) -> None:
    agreement.require_logits(replace(tiny.spec(tmp_path), activation=activation), numbers, "logits")
