"""AVIF and HEIC: decoded as the others are, and bounded from outside where they are not what they say.

TIFFs go the same way: test_tiffs.py.
"""

import contextlib
import struct
import time
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from broker.errors import ClientError
from broker.messages import Fit, InputSpec
from pictures import confined, decoder_process
from pictures.decode import ImageTooLarge, InvalidImage, Size, UnsupportedFormat, decode, decode_near
from pictures.fit import prepare
from tests.support import ROOT
from tests.support.pictures import encoded

MANY = 10_000_000
RED = (250, 10, 20)

pillow_heif.register_heif_opener()

_SEEDS = {
    kind: encoded(Image.new("RGB", (64, 48), RED), kind, quality=90) for kind in decoder_process.FORMATS
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", decoder_process.FORMATS)
def test_it_is_decoded_as_others_are(kind: str) -> None:
    decoded = decode(_SEEDS[kind], max_pixels=MANY)
    assert decoded.size == (64, 48)
    assert np.abs(np.asarray(decoded)[20, 20].astype(int) - RED).max() <= 8


@pytest.mark.slow
@pytest.mark.parametrize("kind", decoder_process.FORMATS)
def test_it_is_decoded_as_small_as_is_needed_and_known_whole(kind: str) -> None:
    upload = encoded(Image.new("RGB", (640, 320), RED), kind)
    decoded = decode_near(upload, max_pixels=MANY, needed=Size(shortest=100))
    assert (decoded.image.size, decoded.whole, decoded.factor) == ((214, 107), (640, 320), 3)
    decoded = decode_near(upload, max_pixels=MANY, needed=Size(longest=320))
    assert (decoded.image.size, decoded.whole, decoded.factor) == ((320, 160), (640, 320), 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", decoder_process.FORMATS)
def test_it_is_turned_upright_once(kind: str) -> None:
    stored = Image.new("RGB", (64, 32), "black")
    stored.paste((255, 255, 255), (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    prepared = prepare(
        encoded(stored, kind, exif=exif.tobytes(), quality=95),
        InputSpec(32, 64, 3, Fit.STRETCH),
        max_pixels=MANY,
    )
    assert prepared.original_size == (32, 64)
    assert prepared.pixels[16].mean() > 240
    assert prepared.pixels[48].mean() < 15


@pytest.mark.slow
@pytest.mark.parametrize("kind", decoder_process.FORMATS)
def test_transparency_is_laid_on_white(kind: str) -> None:
    decoded = decode(encoded(Image.new("RGBA", (32, 32), (0, 0, 0, 0)), kind), max_pixels=MANY)
    assert np.asarray(decoded).min() > 250


@pytest.mark.slow
@pytest.mark.parametrize("kind", decoder_process.FORMATS)
def test_the_bound_on_pixels_is_judged_from_the_header(kind: str) -> None:
    with pytest.raises(ImageTooLarge, match="64 x 48 pixels; at most 3071"):
        decode(_SEEDS[kind], max_pixels=64 * 48 - 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*decoder_process.FORMATS, "TIFF"])
def test_the_bound_on_a_side_is_judged_from_the_header(kind: str) -> None:
    upload = _SEEDS.get(kind) or encoded(Image.new("RGB", (64, 48)), kind)
    with pytest.raises(confined.TooLarge) as refusal:
        confined.decode(upload, confined.Bounds(MANY, 63, 1, 1))
    assert refusal.value.size == (64, 48)
    assert confined.decode(upload, confined.Bounds(MANY, 64, 64, 64))[1] == (64, 48)


@pytest.mark.slow
@pytest.mark.parametrize("kind", decoder_process.FORMATS)
def test_a_header_that_lies_ends_its_decoder_alone(kind: str) -> None:
    upload = bytearray(encoded(Image.new("L", (4000, 3000)), kind))
    at = bytes(upload).index(b"ispe") + 8
    upload[at : at + 8] = struct.pack(">II", 64, 64)
    begun = time.monotonic()
    # libheif refuses it; libavif scales the picture to what the header says.
    with contextlib.suppress(InvalidImage):
        assert decode(bytes(upload), max_pixels=100_000).size == (64, 64)
    assert time.monotonic() - begun < 20


def test_a_decoder_without_time_or_memory_is_a_broken_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "_WALL_S", 0.001)
    with pytest.raises(InvalidImage, match="broken or cut short"):
        decode(_SEEDS["AVIF"], max_pixels=MANY)


@pytest.mark.slow
@pytest.mark.parametrize("kind", decoder_process.FORMATS)
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_one_cut_short_is_broken(kind: str, keep: float) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    upload = encoded(Image.fromarray(noise), kind)
    with pytest.raises(InvalidImage, match="broken or cut short"):
        decode(upload[: int(len(upload) * keep)], max_pixels=MANY)


@pytest.mark.parametrize(
    ("upload", "words"),
    [
        (b"\xff\x0a" + b"\0" * 20, "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"%PDF-1.7", "a PDF"),
        (b"\xef\xbb\xbf  <svg>", "an SVG drawing"),
        (b"\0\0\0\x18ftypmp42", "a video"),
        (b"\0\0\0\x18ftypcrx ", "raw picture"),
        (b"8BPS\0\x01", "Photoshop"),
        (b"\0\0\1\0\1\0\x10\x10", "icon"),
    ],
)
def test_a_refusal_names_what_came_and_what_to_do(upload: bytes, words: str) -> None:
    with pytest.raises(UnsupportedFormat, match=f"{words}.*convert it to JPEG, PNG"):
        decode(upload, max_pixels=MANY)


@pytest.mark.slow
@settings(
    max_examples=24,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(data=st.data(), kind=st.sampled_from(decoder_process.FORMATS))
def test_a_damaged_one_is_decoded_or_refused_never_more(data: st.DataObject, kind: str) -> None:
    upload = bytearray(_SEEDS[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        upload[data.draw(st.integers(12, len(upload) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ClientError):  # anything else fails the test
        decode(bytes(upload), max_pixels=MANY)


def test_the_decoder_does_not_inherit_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A hostile picture may take the decoder over, which then must not find the password of Redis."""
    script = tmp_path / "decoder.py"
    script.write_text(
        "import json, os, sys\n"
        "head = {'mode': 'L', 'size': [1, 1], 'whole': [1, 1], 'profile': 0, 'exif': len(os.environ)}\n"
        "sys.stdout.write(json.dumps(head) + '\\n' + 'x' * (len(os.environ) + 1))\n"
    )
    monkeypatch.setattr(confined, "_SCRIPT", str(script))
    monkeypatch.setenv("REDIS_URL", "redis://:secret@localhost")
    image, _ = confined.decode(b"", confined.Bounds(1, 1, 1, 1))
    # libtiff's bound, and LC_CTYPE, which Python sets itself.
    assert len(image.info.get("exif", b"")) <= 2


def test_the_decoder_imports_nothing_from_around_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In its folder lie names like `ico`, which another package may mean."""
    (tmp_path / "beside.py").write_text("")
    script = tmp_path / "decoder.py"
    script.write_text(
        "import importlib.util as u, json, sys\n"
        "found = int(u.find_spec('beside') is not None)\n"
        "head = {'mode': 'L', 'size': [1, 1], 'whole': [1, 1], 'profile': 0, 'exif': found}\n"
        "sys.stdout.write(json.dumps(head) + '\\n' + 'x' * (found + 1))\n"
    )
    monkeypatch.setattr(confined, "_SCRIPT", str(script))
    image, _ = confined.decode(b"", confined.Bounds(1, 1, 1, 1))
    assert "exif" not in image.info


def _replaced_decoder(folder: Path, code: str) -> str:
    """A script that does `code` in place of opening a picture, under the limits of the real one."""
    script = folder / "decoder.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from pictures import decoder_process\n"
        f"def opened(*_, **__):\n    {code}\n"
        "decoder_process.Image.open = opened\n"
        "decoder_process.main(*(int(text) for text in sys.argv[1:]))\n"
    )
    return str(script)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("bytearray(2 << 30)", "MemoryError"),
        ("while True: pass", "ended with -24"),  # SIGXCPU
        ("print('x', file=open('file', 'w'), flush=True)", "File too large"),
        ("print('x' * (70 << 20))", "wrote more than"),
        # More than a pipe holds, of which the last line is kept.
        ("sys.stderr.write('x' * 5_000_000); raise OSError('the cause')", "ended with 1: OSError: the cause"),
        (
            "from types import SimpleNamespace as Fake; image = Fake(size=(1, 1), info={}, mode='CMYK'); "
            "image.load = lambda: setattr(image, 'size', (2, 2)); image.tobytes = lambda: b''; return image",
            "another size than its header",
        ),
    ],
)
def test_a_decoder_that_is_taken_over_stays_within_its_bounds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(confined, "_SCRIPT", _replaced_decoder(tmp_path, code))
    with pytest.raises(confined.Failed, match=words):
        confined.decode(b"x" * 1_000_000, confined.Bounds(1000, 1000, 1, 1))
