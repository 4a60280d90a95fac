"""Progressive JPEGs: what decoding costs is judged before it is paid."""

import struct

import pytest
from PIL import Image

from pictures import jpeg_scans
from pictures.decode import InvalidImage, decode
from tests.e2e.hostile_cases import painted_over
from tests.support.pictures import encoded

MANY = 10_000_000


def _tiff_of(jpeg: bytes, *, side: int) -> bytes:
    """A TIFF of one strip, which is a JPEG."""
    start = 8 + 2 + 12 * 9 + 4
    tags = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 7), (262, 3, 1), (273, 4, start)]
    tags += [(277, 3, 1), (278, 4, side), (279, 4, len(jpeg))]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0\0\0\0" + jpeg


@pytest.mark.parametrize(("more", "max_pixels"), [(200, 10_000), (40, 4000)])
def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(
    more: int, max_pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(InvalidImage, match="too many scans"):
        decode(painted_over(60, more), max_pixels=max_pixels)


def test_many_scans_of_a_small_picture_are_little_work() -> None:
    assert decode(painted_over(60, 200), max_pixels=MANY).size == (60, 60)


@pytest.mark.parametrize(("subsampling", "most"), [(0, 14), (2, 8)])
def test_a_component_counts_by_its_own_size(subsampling: int, most: int) -> None:
    colour = Image.new("RGB", (64, 64), "red")
    jpeg = encoded(colour, "JPEG", progressive=True, subsampling=subsampling)
    # libjpeg's script: ten scans, of which two paint all components and the others one.
    assert not jpeg_scans.too_many(jpeg, pixels=32_000, max_pixels=1000 * most)
    assert jpeg_scans.too_many(jpeg, pixels=32_000, max_pixels=1000 * most - 1)


def test_48_megapixels_in_as_many_scans_as_any_tool_makes_are_taken() -> None:
    jpeg = encoded(Image.new("RGB", (64, 64)), "JPEG", progressive=True, subsampling=0)
    luma = jpeg[(last := jpeg.rindex(b"\xff\xda")) : -2]
    seventeen = jpeg[:last] + luma * 8 + b"\xff\xd9"
    assert not jpeg_scans.too_many(seventeen, pixels=8064 * 6048, max_pixels=64_000_000)


@pytest.mark.parametrize("more", [0, 8])
def test_a_progressive_jpeg_is_sound_whatever_comes_within_and_after_it(more: int) -> None:
    jpeg = painted_over(60, more)
    thumbnail = b"\xff\xe1" + (2 + 600).to_bytes(2) + b"\xff\xda" * 300
    film = b"\xff\xda" * 5000  # what a phone's moving photo has after its picture
    assert decode(jpeg[:2] + thumbnail + jpeg[2:] + film, max_pixels=4000).size == (60, 60)


@pytest.mark.parametrize(
    "hidden", [b"\xff\x02\xff\xff", b"\xff\xd0", b"\xff\xff", b"\xff\x00\xff\x01", b"\xff\xfe\x00\x00"]
)
def test_no_other_bytes_hide_a_scan(hidden: bytes) -> None:
    jpeg = painted_over(60, 0)
    last = jpeg.rindex(b"\xff\xda")
    many = jpeg[:last] + (hidden + jpeg[last:-2]) * 200 + jpeg[-2:]
    assert jpeg_scans.too_many(many, pixels=3600, max_pixels=10_000)


def test_a_jpeg_of_nothing_but_markers_is_not_read_to_its_end() -> None:
    scans = b"\xff\xda\x00\x02" * 9  # with fewer nothing is looked at
    markers = b"\xff\xd8" + b"\xff\xfe\x00\x02" * 10_000 + scans
    assert jpeg_scans.too_many(markers, pixels=0, max_pixels=MANY)
    assert not jpeg_scans.too_many(b"\xff\xd8", pixels=0, max_pixels=MANY)


@pytest.mark.parametrize("kind", ["MPO", "TIFF"])
def test_what_holds_a_jpeg_is_no_way_around_it(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    jpeg = painted_over(60, 400)
    other = encoded(Image.new("L", (60, 60)), "JPEG")
    if kind == "MPO":
        index = encoded(
            Image.new("L", (60, 60)), "MPO", save_all=True, append_images=[Image.new("L", (60, 60))]
        )
        at = index.index(b"\xff\xe2")
        segment = index[at : at + 2 + int.from_bytes(index[at + 2 : at + 4])]
        upload = jpeg[:2] + segment + jpeg[2:] + other
    else:
        upload = _tiff_of(jpeg, side=60)
    with pytest.raises(InvalidImage):
        decode(upload, max_pixels=10_000)
    capfd.readouterr()  # libtiff, whose own bound is a hundred, says so
