"""`check --golden`: a model against its author's outputs, which docs/golden.md's own code makes."""

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from broker.messages import Decode, Fit, InputSpec
from model_server.catalogue import model_toml
from model_server.catalogue.model_spec import read_model
from model_server.commands import check, golden
from model_server.commands.terminal import DONE, REFUSED
from model_server.engines.choice import EngineChoice
from tests.support import ROOT, keras_fork

pytestmark = pytest.mark.usefixtures("converts_in_forks")

PAGE = (ROOT / "docs" / "golden.md").read_text("utf-8")
TAIL = re.search(r"## Making.*?```python\n(.*?)```", PAGE, re.DOTALL)

NETWORK = """
import sys, keras, numpy
keras.utils.set_random_seed(3)
layers = keras.layers
network = keras.Sequential([
    keras.Input((64, 64, 3)), layers.Conv2D(16, 5, strides=3, activation="relu"),
    layers.Conv2D(24, 3, strides=2, activation="relu"), layers.Flatten(), layers.Dense(10),
])
pictures = numpy.random.default_rng(0).random((32, 64, 64, 3)).astype("float32")
scale = 3 / numpy.std(network(pictures), axis=0)
kernel, bias = network.layers[-1].get_weights()
network.layers[-1].set_weights([kernel * scale, bias - (network(pictures) * scale).numpy().mean(0)])
network.add(layers.Softmax())
network.save(sys.argv[1])
"""
"""A network whose answers differ from picture to picture, and with every pixel."""

TOML = """task = "classification"
labels = "labels.txt"
top = 1
[source]
kind = "keras_file"
file = "mine.keras"
[input]
width = 64
height = 64
channels = 3
"""

CHECK = """
import sys
from model_server.commands import check, golden
golden._NORMALISE = ("unit",)
sys.exit(check.main(sys.argv[1:]))
"""
"""`check`, which tries one normalisation, in a process that may load TensorFlow."""

TF_IMAGE = "tf.image, and keras.utils.image_dataset_from_directory"
RIGHT = {
    "keras.utils.load_img": 1e-4,
    TF_IMAGE: 1e-4,
    "OpenCV": 1e-4,
}
"""The sections of the page that need no PyTorch, and how near their answers are."""


def snippet(title: str, language: str, *, at: int = 0) -> str:
    """A block of a section of the page."""
    section = PAGE[PAGE.index(f"### {title}\n") :]
    blocks = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    return str(blocks[at])


def pictures(folder: Path, count: int) -> Path:
    """JPEGs of several sizes: edges, gradients and noise."""
    folder.mkdir()
    chance = np.random.default_rng(11)
    for number in range(count):
        width, height = (int(side) for side in chance.integers(70, 400, 2))
        small = chance.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
        kernel = Image.Resampling.NEAREST if number % 2 else Image.Resampling.BICUBIC
        picture = Image.fromarray(small).resize((width, height), kernel)
        picture.save(folder / f"{number:03}.jpg", quality=int(chance.integers(60, 96)))
    return folder


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network, its labels and some pictures."""
    folder = tmp_path_factory.mktemp("golden")
    keras_fork.run(["-c", NETWORK, str(folder / "mine.keras")]).check_returncode()
    (folder / "labels.txt").write_text("".join(f"label {number}\n" for number in range(10)))
    pictures(folder / "pictures", 16)
    return folder


def written(mine: Path, title: str) -> None:
    """Write the page's code as golden.py, which makes golden.npz of `pictures`."""
    assert TAIL
    (mine / "mine.py").write_text(snippet(title, "python"))
    (mine / "golden.py").write_text(TAIL[1])
    (mine / "golden.npz").unlink(missing_ok=True)


def _made(mine: Path, title: str) -> Path:
    """Run the page's code; returns golden.npz."""
    written(mine, title)
    return _run(mine)


def _run(mine: Path) -> Path:
    done = keras_fork.run(["golden.py", "pictures"], cwd=mine)
    assert done.returncode == 0, done.stderr
    return mine / "golden.npz"


def write(mine: Path, fields: str) -> Path:
    """The folder of the model, with these fields in [input]."""
    (mine / "model.toml").write_text(TOML + fields)
    return mine


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("title", RIGHT)
def test_the_page_s_code_and_fields_agree(mine: Path, title: str, capsys: pytest.CaptureFixture[str]) -> None:
    archive = _made(mine, title)
    folder = write(mine, snippet(title, "toml"))
    arguments = [str(folder), "--golden", str(archive), "--within", str(RIGHT[title])]
    assert check.main(arguments) == DONE, capsys.readouterr()
    said = capsys.readouterr().out
    assert "16 pictures: the same best class in 1.000 of them" in said
    assert said.endswith(" gives the golden outputs.\n")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_folder_of_keras_agrees_and_its_library_is_found(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = snippet(TF_IMAGE, "python", at=1)
    options = 'crop_to_aspect_ratio=True, interpolation="bicubic", shuffle=False'
    (mine / "golden.py").write_text(code.replace("shuffle=False", options))
    (mine / "golden.npz").unlink(missing_ok=True)
    archive = _run(mine)
    fields = snippet(TF_IMAGE, "toml").replace("stretch", "crop") + 'resample = "bicubic"\n'
    arguments = [str(write(mine, fields)), "--golden", str(archive), "--within", "1e-4"]
    monkeypatch.setenv("ENGINE", "tensorflow")  # the page's code runs on OpenVINO above
    done = keras_fork.run(["-c", CHECK, *arguments])
    assert done.returncode == DONE, done
    assert "engine      tensorflow fp32" in done.stdout
    assert "16 pictures: the same best class in 1.000 of them" in done.stdout
    write(mine, fields.replace('library = "tensorflow"\n', 'decode = "exact"\n'))
    done = keras_fork.run(["-c", CHECK, *arguments])
    assert done.returncode == REFUSED
    assert "With this in model.toml the largest difference is 0.0000" in done.stdout
    assert done.stdout.endswith('\n  library = "tensorflow"\n')


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_is_wrong_is_named(
    mine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golden, "_NORMALISE", ("unit",))  # two conversions each
    archive = _made(mine, "keras.utils.load_img")
    folder = write(mine, 'fit = "stretch"\nnormalise = "tf"\norder = "bgr"\n')
    assert check.main([str(folder), "--golden", str(archive)]) == REFUSED
    said = capsys.readouterr()
    lines = said.out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("With this in model.toml"))
    assert sorted(lines[at + 1 :]) == [
        '  decode = "exact"',
        '  normalise = "unit"',
        '  order = "rgb"',
        '  resample = "nearest"',
    ]
    assert "expected class" in said.out
    assert said.err.endswith("differs from its golden outputs by more than 0.001.\n")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_another_network_s_outputs_are_not_explained(
    mine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golden, "_NORMALISE", ("unit",))
    folder = write(mine, 'fit = "stretch"\nnormalise = "unit"\n')
    wrong = mine / "wrong"
    wrong.mkdir()
    lines = []
    for number in range(4):
        (wrong / f"{number}.jpg").write_bytes((mine / "pictures" / f"{number:03}.jpg").read_bytes())
        lines.append(f"{number}.jpg," + ",".join(["0.1"] * 10) + "\n")
    (wrong / golden.EXPECTED).write_text("".join(lines))
    assert check.main([str(folder), "--golden", str(wrong)]) == REFUSED
    said = capsys.readouterr().out
    assert "Nothing that was tried comes much nearer (each normalise by name, " in said
    assert "is it the same network" in said


def _jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"outputs": np.zeros((1, 2))}, "picture0"),
        ({"picture0": np.zeros(3, np.uint8)}, "outputs"),
        ({"outputs": np.zeros((0, 2))}, "no pictures"),
        ({"outputs": np.array([[np.nan]]), "picture0": np.zeros(3, np.uint8)}, "not finite"),
        ({"outputs": np.zeros((1, 2)), "picture0": np.zeros(3, np.uint8), "names": ["a", "b"]}, "2 names"),
        ({"outputs": np.array([[object()]], object)}, "can't be read"),
    ],
)
def test_an_archive_that_can_t_be_used_is_refused(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "golden.npz", **arrays)
    with pytest.raises(golden.GoldenError, match=words):
        golden.read(tmp_path / "golden.npz")


@pytest.mark.parametrize(
    ("lines", "words"),
    [("", "no pictures"), ("a.jpg,1\na.jpg,1,2\n", "different"), ("a.jpg,x\n", "file name")],
)
def test_a_folder_that_can_t_be_used_is_refused(tmp_path: Path, lines: str, words: str) -> None:
    with pytest.raises(golden.GoldenError, match=golden.EXPECTED):
        golden.read(tmp_path)
    (tmp_path / golden.EXPECTED).write_text(lines)
    (tmp_path / "a.jpg").write_bytes(_jpeg())
    with pytest.raises(golden.GoldenError, match=words):
        golden.read(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        'normalise = "tf"\norder = "bgr"',
        "normalise = { mean = [1, 2, 3], std = [4, 5, 6] }",
        "[input.normalise]\nmean = [1, 2,\n  3]\nstd = [4, 5, 6]\n[output]",
    ],
)
def test_a_field_is_rewritten_however_it_is_written(fields: str, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n")
    text = TOML + 'fit = "stretch"\n' + fields + "\n"
    for key, value in (("normalise", "torch"), ("order", "rgb")):
        text = golden._set(text, key, value)
    (tmp_path / "model.toml").write_text(text)
    read = model_toml.read(tmp_path / "model.toml")
    assert (read.input.normalise, read.input.order, read.input.width) == ("torch", "rgb", 64)


def test_every_field_is_tried_and_nothing_twice() -> None:
    spec = read_model(ROOT / "models", "resnet50")
    variants = [each for colour in golden._colours(spec) for each in golden._samplings(colour)]
    variants += golden._fits(spec)
    lines = [tuple(golden._changes(spec, each)) for each in variants]
    assert len(lines) == len(set(lines))
    for field in ("resample", "library", "decode", "fit", "resize", "order", "normalise"):
        assert any(line.startswith(f"{field} = ") for each in lines for line in each)


def _resized_and_cut(path: Path, resize: int, side: int) -> Any:  # noqa: ANN401 - an array
    """What torchvision makes by Resize(resize), CenterCrop(side) of a PIL picture."""
    with Image.open(path) as picture:
        short = min(picture.size)
        width, height = (resize * each // short for each in picture.size)
        resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return np.asarray(resized.crop((left, top, left + side, top + side)), np.float32).reshape(-1)


@pytest.mark.parametrize(
    ("side", "resize", "before"),
    [(64, 64, Fit.CROP), (64, 64, Fit.STRETCH), (64, 73, Fit.CROP), (32, 256, Fit.CROP)],
)
def test_the_resize_before_a_crop_is_found_for_small_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, resize: int, before: Fit
) -> None:
    """The network gives its pixels; the golden ones are PIL's, as torchvision calls it."""
    monkeypatch.setattr(golden.Trial, "_network", lambda *_: np.float32)
    paths = sorted(pictures(tmp_path / "pictures", 4).iterdir())
    outputs = np.stack([_resized_and_cut(path, resize, side) for path in paths])
    expected = golden.Golden([path.name for path in paths], [path.read_bytes() for path in paths], outputs)
    input_ = InputSpec(side, side, 3, before, decode=Decode.EXACT)
    spec = replace(read_model(ROOT / "models", "resnet50"), input=input_)
    trial = golden.Trial(
        spec, EngineChoice("openvino", "fp32"), cache=tmp_path, scratch=tmp_path, max_pixels=10**7
    )
    comparison = trial.compare(spec, expected)
    assert comparison.largest > 1
    said = list(golden.explain(trial, spec, expected, comparison, within=1e-3))
    assert said == [
        "With this in model.toml the largest difference is 0.0000000.",
        *(['  fit = "crop"'] if before is not Fit.CROP else []),
        f"  resize = {resize}",
    ]


@pytest.mark.parametrize("side", [1, 28, 64, 224, 299, 4096])
def test_every_resize_that_is_tried_can_be_written(side: int) -> None:
    spec = read_model(ROOT / "models", "resnet50")
    variants = list(golden._fits(replace(spec, input=InputSpec(side, side, 3, Fit.CROP))))
    assert side in {each.input.resize for each in variants}
    assert all(not each.input.resize or side <= each.input.resize <= 4096 for each in variants)
