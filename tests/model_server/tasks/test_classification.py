"""Outputs to predictions."""

import numpy as np
import pytest

from broker.errors import InferenceFailed
from model_server.catalogue.model_spec import Label
from model_server.tasks.classification import classify

LABELS = (Label("n0", "cat"), Label("n1", "dog"), Label("n2", "cow"), Label("n3", "hen"))


def test_the_best_come_first_with_their_ids() -> None:
    best = classify(np.array([0.1, 0.5, 0.15, 0.25], np.float32), LABELS, 2)
    assert [(each.label, each.class_id) for each in best] == [("dog", "n1"), ("hen", "n3")]
    assert [each.probability for each in best] == pytest.approx([0.5, 0.25])


def test_equals_stay_in_the_labels_order() -> None:
    best = classify(np.full(4, 0.25, np.float32), LABELS, 4)
    assert [each.label for each in best] == ["cat", "dog", "cow", "hen"]


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_what_is_not_finite_is_no_answer(odd: float) -> None:
    with pytest.raises(InferenceFailed, match="not finite"):
        classify(np.array([0.1, odd, 0.1, 0.1], np.float32), LABELS, 2)


def test_outputs_without_labels_are_no_answer() -> None:
    with pytest.raises(InferenceFailed, match="4 labels"):
        classify(np.zeros(3, np.float32), LABELS, 2)
