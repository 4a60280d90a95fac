"""The bundled model as served: a tenth of MNIST's test set, each answer matched to its picture."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support import ROOT, http
from tests.support.real_data import MNIST, needs
from tests.support.redis_server import running_redis
from tests.support.stack import Stack, web_up
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    needs(MNIST),
]


@pytest.fixture(scope="module")
def mnist() -> tuple[NDArray[np.uint8], list[str]]:
    """MNIST's test pictures, uint8 (10000, 28, 28), and their labels."""
    with np.load(MNIST, allow_pickle=False) as data:
        return data["x_test"], [str(label) for label in data["y_test"]]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The real model server, with digits, behind the real web tier; started once for this module."""
    with running_redis() as redis:
        stack = Stack(tmp_path_factory.mktemp("digits"), redis.url, "digits")
        stack.environment |= {"MODELS_DIR": str(ROOT / "models"), "REQUEST_TIMEOUT_S": "60"}
        with web_up(stack):
            stack.start("model_server", log="model_server")
            eventually(lambda: stack.answers("/readyz?model=digits"), within_s=90)
            yield stack


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_two_hundred_digits_at_concurrency_32_each_answer_its_own(
    digits: Stack, mnist: tuple[NDArray[np.uint8], list[str]], tmp_path: Path
) -> None:
    pictures, labels = mnist
    folder = tmp_path / "digits"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number}.png").write_bytes(_png(pictures[number]))
    rows = "".join(f"{number}.png,{labels[number]}\n" for number in range(200))
    (tmp_path / "labels.csv").write_text("file,label\n" + rows)
    figures = tmp_path / "figures.json"
    command = [sys.executable, "stress_test.py", str(folder), "--url", digits.url, "--model", "digits"]
    command += ["--expect", str(tmp_path / "labels.csv"), "--concurrency", "32", "--requests", "200"]
    command += ["--timeout", "60", "--json", str(figures)]
    subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)  # 1, if one is misread
    found = json.loads(figures.read_text())["points"][0]
    assert found["right"] >= 198
    assert set(found["errors"]) <= {"wrong label"}
    assert max(map(int, found["batch_sizes"])) > 1


def test_a_tenth_of_the_test_set_as_served(digits: Stack, mnist: tuple[NDArray[np.uint8], list[str]]) -> None:
    pictures, labels = mnist[0][::10], mnist[1][::10]
    with http.client(timeout=120) as client:

        def ask(start: int) -> list[str]:
            files = [
                ("image", (f"{number}.png", _png(pictures[number]))) for number in range(start, start + 50)
            ]
            answer = client.post(f"{digits.url}/predict?model=digits&top=1", files=files).json()
            return [each["predictions"][0]["label"] for each in answer["results"]]

        with ThreadPoolExecutor(4) as pool:
            answers = [label for labels_ in pool.map(ask, range(0, 1_000, 50)) for label in labels_]
    right = sum(answer == label for answer, label in zip(answers, labels, strict=True))
    print(f"{right} of 1000 right")  # noqa: T201 - the figure, for `pytest -s`
    assert right >= 992


def test_the_same_digits_in_dark_ink_on_white_paper_at_any_size(
    digits: Stack, mnist: tuple[NDArray[np.uint8], list[str]]
) -> None:
    pictures, labels = mnist
    random = np.random.default_rng(5)
    right = 0
    with http.client(timeout=60) as client:
        for start in range(0, 500, 50):
            files = []
            for number in range(start, start + 50):
                side = int(random.integers(30, 700))
                ink = Image.fromarray(255 - pictures[number]).resize((side, side), Image.Resampling.BICUBIC)
                paper = Image.new("L", (side + int(random.integers(0, 300)), side), 255)
                paper.paste(ink, (int(random.integers(0, paper.width - side + 1)), 0))
                buffer = io.BytesIO()
                paper.save(buffer, "JPEG", quality=80)
                files.append(("image", (f"{number}.jpg", buffer.getvalue())))
            answer = client.post(f"{digits.url}/predict?model=digits&top=1", files=files).json()
            found = [each["predictions"][0]["label"] for each in answer["results"]]
            right += sum(a == b for a, b in zip(found, labels[start : start + 50], strict=True))
    assert right >= 495
