"""Maps to masks on the photo: classes and instances, crops and padding, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from broker.errors import InferenceFailed
from broker.messages import Fit, InputSpec, Library, Prediction
from model_server.catalogue.model_spec import CatalogueError, KerasFile, Label, ModelSpec, read_model
from model_server.tasks import TASKS
from model_server.tasks.segmentation import Segmentation
from model_server.tasks.task import ReadOptions
from pictures import rle
from tests.model_server.catalogue.test_task_tables import _read as read_toml

TASK = TASKS["segmentation"]
INSTANCES = Segmentation(layout="ultralytics")
CHANCE = np.random.default_rng(11)

Floats = NDArray[np.float32]


def _spec(table: Segmentation, classes: int = 3, fit: Fit = Fit.STRETCH, side: int = 32) -> ModelSpec:
    labels = tuple(Label(str(number), f"class {number}") for number in range(classes))
    taken = InputSpec(side, side, 3, fit, library=Library.OPENCV)
    return ModelSpec("m", Path(), TASK, KerasFile("x"), taken, "unit", labels, top=9, options=table)


def _read(
    spec: ModelSpec, *outputs: Floats, size: tuple[int, int] = (32, 32), top: int = 100
) -> tuple[Prediction, ...]:
    return spec.task.read(outputs, spec, ReadOptions(size, top)).predictions


def _mask(prediction: Prediction) -> NDArray[np.bool_]:
    assert prediction.mask is not None
    return rle.decode(prediction.mask)


def _classes(predictions: tuple[Prediction, ...], size: tuple[int, int]) -> NDArray[np.int64]:
    """The class of each pixel, (height, width); -1: none."""
    classes = np.full(size[::-1], -1)
    for prediction in predictions:
        classes[_mask(prediction)] = int(prediction.class_id)
    return classes


def _smooth(classes: int, height: int, width: int) -> Floats:
    rough = CHANCE.normal(0, 4, (classes, 5, 6)).astype(np.float32)
    grown = [Image.fromarray(each).resize((width, height), Image.Resampling.BICUBIC) for each in rough]
    return np.stack([np.asarray(each) for each in grown])


def _interpolated(scores: Floats, size: tuple[int, int]) -> Floats:
    """PyTorch's bilinear interpolation without aligned corners, by its definition."""
    for axis, side in ((1, size[1]), (2, size[0])):
        length = scores.shape[axis]
        exact = ((np.arange(side) + 0.5) * length / side - 0.5).clip(0, length - 1)
        first = np.floor(exact).astype(int)
        share = (exact - first).astype(np.float32).reshape([-1 if at == axis else 1 for at in range(3)])
        second = np.minimum(first + 1, length - 1)
        scores = scores.take(first, axis) * (1 - share) + scores.take(second, axis) * share
    return scores


@pytest.mark.parametrize("size", [(32, 32), (150, 90), (20, 17), (1, 1)])
@pytest.mark.parametrize("rough", [False, True])
def test_scores_are_enlarged_before_the_best_class_is_chosen(size: tuple[int, int], rough: bool) -> None:
    scores = CHANCE.normal(0, 1, (4, 24, 32)).astype(np.float32) if rough else _smooth(4, 24, 32)
    spec = _spec(Segmentation(least_area=0), 4)
    right = _interpolated(scores, size).argmax(axis=0)
    for output in (scores, np.ascontiguousarray(scores.transpose(1, 2, 0))):
        found = _read(spec, output, size=size)
        assert (_classes(found, size) == right).mean() > 0.999
        areas = [each.area or 0 for each in found]
        assert areas == sorted(areas, reverse=True)
        assert sum(areas) == pytest.approx(1)


def test_a_class_has_the_box_and_the_mean_probability_of_its_pixels() -> None:
    scores = np.zeros((3, 32, 32), np.float32)
    scores[0] = 2
    scores[2, 4:20, 10:30] = 5
    sky, thing = _read(_spec(Segmentation()), scores, size=(64, 32))
    assert (sky.label, sky.box) == ("class 0", (0, 0, 64, 32))
    assert (thing.class_id, thing.box) == ("2", (20, 4, 40, 16))
    assert sky.area == pytest.approx(1 - 320 / 1024, abs=0.02)
    assert thing.area == pytest.approx(320 / 1024, abs=0.02)
    powers = np.exp([2.0, 0, 5])
    assert thing.probability == pytest.approx(powers[2] / powers.sum(), rel=1e-4)
    again = np.exp(scores) / np.exp(scores).sum(axis=0)
    for table in (Segmentation(), Segmentation(values="probabilities")):
        assert _read(_spec(table), again, size=(64, 32))[1].probability == pytest.approx(
            thing.probability, rel=1e-3
        )


def test_what_is_small_or_background_is_not_reported() -> None:
    numbers = np.zeros((32, 32), np.float32)
    numbers[:2, :2] = 1
    numbers[10:20] = 2
    assert [each.class_id for each in _read(_spec(Segmentation()), numbers)] == ["0", "2", "1"]
    assert [each.class_id for each in _read(_spec(Segmentation()), numbers, top=1)] == ["0"]
    large = Segmentation(least_area=0.01)
    assert [each.class_id for each in _read(_spec(large), numbers)] == ["0", "2"]
    for background in (0, "class 0"):
        table = Segmentation(background=background)
        assert [each.class_id for each in _read(_spec(table), numbers)] == ["2", "1"]


@pytest.mark.parametrize("shape", [(32, 32), (1, 32, 32), (32, 32, 1)])
def test_class_numbers_are_taken_as_they_are(shape: tuple[int, ...]) -> None:
    numbers = CHANCE.integers(0, 3, (32, 32)).astype(np.float32)
    numbers[5, 7] = 255  # no class
    found = _read(_spec(Segmentation(least_area=0)), numbers.reshape(shape), size=(64, 96))
    right = np.repeat(np.repeat(np.where(numbers > 2, -1, numbers), 3, axis=0), 2, axis=1)
    assert np.array_equal(_classes(found, (64, 96)), right)
    assert {each.probability for each in found} == {1.0}


def test_a_single_map_may_be_the_second_of_two_classes() -> None:
    logits = np.full((1, 32, 32), -3, np.float32)
    logits[0, :, 16:] = 1
    first, second = _read(_spec(Segmentation(values="logits"), 2), logits)
    assert first.area == second.area == 0.5
    assert second.box == (16, 0, 16, 32)
    assert second.probability == pytest.approx(1 / (1 + np.exp(-1)), rel=1e-4)
    chances = (1 / (1 + np.exp(-logits))).astype(np.float32)
    likely = _read(_spec(Segmentation(values="probabilities"), 2), chances)
    assert likely[1].probability == pytest.approx(second.probability, rel=1e-4)


def test_what_a_crop_cuts_off_has_no_class() -> None:
    (found,) = _read(_spec(Segmentation(), fit=Fit.CROP), np.zeros((32, 32), np.float32), size=(64, 32))
    assert (found.box, found.area) == ((16, 0, 32, 32), 0.5)


def test_padding_is_cut_off() -> None:
    numbers = np.ones((32, 32), np.float32)
    numbers[8:24] = 0
    numbers[8:24, 16:] = 2
    found = _read(_spec(Segmentation(), fit=Fit.PAD), numbers, size=(64, 32))
    assert [(each.class_id, each.box) for each in found] == [("0", (0, 0, 32, 32)), ("2", (32, 0, 32, 32))]
    scores = np.stack([numbers == each for each in range(3)]).astype(np.float32) * 9
    assert [each.class_id for each in _read(_spec(Segmentation(), fit=Fit.PAD), scores, size=(64, 32))] == [
        "0",
        "2",
    ]


def test_a_large_upload_has_a_smaller_mask() -> None:
    numbers = np.zeros((32, 32), np.float32)
    numbers[:, 16:] = 1
    found = _read(_spec(Segmentation()), numbers, size=(6000, 3000))
    assert [each.box for each in found] == [(0, 0, 3000, 3000), (3000, 0, 3000, 3000)]
    assert {each.mask.size for each in found if each.mask} == {(1024, 2048)}


def _instances(side: int = 32) -> tuple[Floats, Floats]:
    """Two boxes of class 1 and one of class 0; of prototypes one is positive on the left, one everywhere."""
    rows = np.zeros((4 + 3 + 2, 5), np.float32)
    rows[:4, 0] = (16, 16, 16, 16)
    rows[:4, 1] = (17, 16, 16, 16)
    rows[:4, 2] = (6, 6, 8, 8)
    rows[5, :2] = (0.9, 0.8)
    rows[4, 2] = 0.7
    rows[7:, 0] = (1, 0)
    rows[7:, 2] = (0, 2)
    prototypes = np.ones((2, side // 4, side // 4), np.float32)
    prototypes[0, :, side // 8 :] = -1
    return rows, prototypes


def test_an_instance_has_its_mask_inside_its_box() -> None:
    spec = _spec(INSTANCES)
    found = _read(spec, *_instances(), size=(64, 32))
    assert [(each.class_id, each.box, each.area) for each in found] == [
        ("1", (16, 8, 32, 16), None),
        ("0", (4, 2, 16, 8), None),
    ]
    left, whole = map(_mask, found)
    assert left.shape == (32, 64)
    assert left[8:24, 16:32].all()
    assert left.sum() == 16 * 16
    assert whole[2:10, 4:20].all()
    assert whole.sum() == 16 * 8


def test_an_instance_without_pixels_is_left_out() -> None:
    rows, prototypes = _instances()
    rows[7:, 2] = (0, -2)
    assert [each.class_id for each in _read(_spec(INSTANCES), rows, prototypes)] == ["1"]


def test_instances_are_cut_where_the_padding_ends() -> None:
    rows, prototypes = _instances()
    rows[:4, 0] = (16, 16, 40, 40)
    (first, _) = _read(_spec(INSTANCES, fit=Fit.PAD), rows, prototypes, size=(50, 90))
    assert first.box == (0, 0, 50, 90)
    mask = _mask(first)
    assert mask.shape == (90, 50)
    assert mask[:, :24].all()
    assert not mask[:, 26:].any()


@pytest.mark.parametrize("which", [0, 1])
def test_outputs_that_are_not_finite_are_no_answer(which: int) -> None:
    outputs = list(_instances())
    outputs[which][7 if which == 0 else 1] = np.nan
    with pytest.raises(InferenceFailed, match="not finite"):
        _read(_spec(INSTANCES), *outputs)
    with pytest.raises(InferenceFailed, match="not finite"):
        _read(_spec(Segmentation()), np.full((3, 8, 8), np.inf, np.float32))


@pytest.mark.parametrize(
    ("table", "shapes"),
    [
        (Segmentation(), [(2, 8, 8)]),
        (Segmentation(), [(3,)]),
        (Segmentation(), [(3, 2, 2)]),
        (Segmentation(values="classes"), [(3, 8, 8)]),
        (Segmentation(values="logits"), [(1, 8, 8)]),
        (INSTANCES, [(9, 50), (3, 8, 8)]),
        (INSTANCES, [(7, 50), (0, 8, 8)]),
        (INSTANCES, [(9, 50)]),
    ],
)
def test_another_shape_is_refused(table: Segmentation, shapes: list[tuple[int, ...]]) -> None:
    assert "3 labels need" in TASK.misfit(_spec(table), shapes)


def test_shapes_that_fit() -> None:
    assert TASK.misfit(_spec(Segmentation()), [(3, 8, 8)]) == ""
    assert TASK.misfit(_spec(Segmentation()), [(8, 9, 3)]) == ""
    assert TASK.misfit(_spec(Segmentation()), [(8, 9)]) == ""
    assert TASK.misfit(_spec(INSTANCES), [(9, 50), (2, 8, 8)]) == ""


def test_engines_are_compared_by_what_the_outputs_are() -> None:
    scores = CHANCE.normal(0, 1, (2, 3, 8, 8)).astype(np.float32)
    numbers = np.repeat(scores.argmax(axis=1)[:, None], 1, axis=1).astype(np.float32)
    other = numbers.copy()
    other[1, 0, 0, 0] += 1
    spec = _spec(Segmentation())
    assert TASK.compare(spec, (scores,), (scores + np.float32(1e-5),), "fp32").agrees
    assert not TASK.compare(spec, (scores,), (scores * np.float32(1.01),), "fp32").agrees
    assert TASK.compare(spec, (numbers,), (numbers,), "fp32").agrees
    verdict = TASK.compare(spec, (numbers,), (other,), "fp32")
    assert not verdict.agrees
    assert "0.016 of the classes differ" in str(verdict)
    assert TASK.compare(spec, (numbers,), (other,), "bf16").agrees
    rows, prototypes = (np.stack([each] * 2) for each in _instances())
    assert TASK.compare(_spec(INSTANCES), (rows, prototypes), (rows, prototypes), "fp32").agrees
    verdict = TASK.compare(_spec(INSTANCES), (rows, prototypes), (rows, prototypes * np.float32(1.1)), "fp32")
    assert not verdict.agrees
    assert "mask coefficients and prototypes by 0.1" in str(verdict)


@pytest.mark.parametrize(
    ("task", "more", "said"),
    [
        ("segmentation", "[segmentation]\nbackground = 6\n", "line 13, .*no class 6: the 6 classes"),
        ("segmentation", '[segmentation]\nbackground = "sky"\n', "no label 'sky'"),
        ("segmentation", '[segmentation]\nlayout = "mask"\n', "Allowed: semantic, ultralytics"),
        ("segmentation", '[output]\nname = "x"\n[segmentation]\nlayout = "ultralytics"\n', "prototypes"),
        ("segmentation", '[output]\nactivation = "softmax"\n', "stay as they are"),
        ("keypoints", "[keypoints]\nnames = []\n", "at least one"),
        ("keypoints", '[keypoints]\nnames = ["a"]\nskeleton = [[0, 1]]\n', "no point 1: the 1 points"),
        ("keypoints", "[keypoints]\nskeleton = [1]\n", "a list, each a list, each a whole"),
        ("keypoints", '[output]\nname = "x"\n', r"named in \[keypoints\]"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_the_task_is_refused(tmp_path: Path, task: str, more: str, said: str) -> None:
    with pytest.raises(CatalogueError, match=said):
        read_toml(tmp_path, task, more)


@pytest.mark.parametrize("task", ["segmentation", "keypoints"])
def test_ink_is_refused(tmp_path: Path, task: str) -> None:
    read_toml(tmp_path, task)
    path = tmp_path / "net" / "model.toml"
    path.write_text(path.read_text().replace("channels = 3", "channels = 1").replace("stretch", "ink"))
    with pytest.raises(CatalogueError, match="could not be placed on the photo"):
        read_model(tmp_path, "net")


def test_the_network_of_another_task_is_told_apart() -> None:
    assert 'layout = "ultralytics"' in TASK.hint([(116, 8400), (32, 160, 160)])
    assert (
        TASK.hint([(21, 520, 520)]) == 'If the output has a map for each class, write task = "segmentation".'
    )
    assert TASK.hint([(84, 8400)]) == TASK.hint([(1000,)]) == ""
