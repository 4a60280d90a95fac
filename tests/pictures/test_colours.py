"""What a stored value looks like: transparency by a colour key, white as zero, colour profiles."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from pictures import colours
from pictures.decode import decode
from tests.support.pictures import encoded

MANY = 10_000_000
WHITE = (255, 255, 255)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, bits: int, colour: int, row: bytes, key: bytes) -> bytes:
    """A PNG of one row, with a colour key, made by hand: Pillow writes none of 2, 4 or 16 bits."""
    head = struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"tRNS", key), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _pixels(upload: bytes) -> list[tuple[int, ...]]:
    image = decode(upload, max_pixels=MANY).convert("RGB")
    return [tuple(int(value) for value in pixel) for pixel in np.asarray(image)[0]]


@pytest.mark.parametrize(
    ("bits", "colour", "row", "key", "expected"),
    [
        (1, 0, b"\x80", b"\0\0", [WHITE, WHITE]),
        (2, 0, b"\x60", b"\0\1", [WHITE, (170, 170, 170)]),
        (4, 0, b"\x31", b"\0\3", [WHITE, (17, 17, 17)]),
        # Of a key's 16 bits the low ones count, as many as a pixel has (PNG, section 11.3.2.1).
        (2, 0, b"\x60", b"\xff\xfd", [WHITE, (170, 170, 170)]),
        (4, 0, b"\x31", b"\0\x13", [WHITE, (17, 17, 17)]),
        (8, 0, b"\x05\x06", b"\0\5", [WHITE, (6, 6, 6)]),
        (16, 0, b"\x05\x01\x05\x02", b"\x05\x01", [WHITE, (5, 5, 5)]),
        (8, 2, b"\1\2\3\1\2\4", b"\0\1\0\2\0\3", [WHITE, (1, 2, 4)]),
        # Both bytes of 16 bits count: else what is nearly the key's colour would vanish as well.
        (16, 2, b"\1\7\2\7\3\7" + b"\1\7\2\7\3\x08", b"\1\7\2\7\3\7", [WHITE, (1, 2, 3)]),
    ],
)
def test_a_colour_key_is_laid_on_white(
    bits: int, colour: int, row: bytes, key: bytes, expected: list[tuple[int, ...]]
) -> None:
    assert _pixels(_png(2, bits, colour, row, key)) == expected


def test_pillow_s_own_colour_keys() -> None:
    assert _pixels(encoded(Image.new("L", (1, 1), 0), transparency=0)) == [WHITE]
    assert _pixels(encoded(Image.new("RGB", (1, 1), (0, 0, 9)), transparency=(0, 0, 9))) == [WHITE]
    assert _pixels(encoded(Image.new("I;16", (1, 1), 0), transparency=0)) == [WHITE]


@pytest.mark.slow
@pytest.mark.parametrize(("value", "expected"), [(0xFA00, 5), (0, 255)])
def test_a_16_bit_tiff_in_which_white_is_zero(value: int, expected: int) -> None:
    tags = [(256, 1), (257, 1), (258, 16), (259, 1), (262, 0), (273, 8), (277, 1), (278, 1), (279, 2)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, number) for tag, number in tags)
    data = struct.pack("<H", value).ljust(8, b"\0")
    upload = b"II*\0" + struct.pack("<I", 16) + data + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"
    assert _pixels(upload) == [(expected,) * 3]


def _profile(gamma: float, primaries: tuple[tuple[float, float], ...]) -> bytes:
    """A profile of a display with these primaries (CIE xy) and white at D50 (ICC.1:2010)."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([0.9642, 1.0, 0.8249])
    matrix = columns * np.linalg.solve(columns, white)

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(column: NDArray[np.float64]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(fixed(float(value)) for value in column)

    curve = b"para\0\0\0\0\0\0\0\0" + fixed(gamma)
    text = b"desc\0\0\0\0\0\0\0\x02x\0".ljust(92, b"\0")
    tags = [(b"desc", text), (b"wtpt", xyz(white)), (b"cprt", b"text\0\0\0\0x\0\0\0")]
    tags += [(name, xyz(matrix[:, n])) for n, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))]
    tags += [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
    table, body, at = b"", b"", 132 + 12 * len(tags)
    for name, data in tags:
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data.ljust(-(-len(data) // 4) * 4, b"\0")
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"lcms", 0x4200000, b"mntr", b"RGB ", b"XYZ ")
    head += b"\0" * 12 + b"acsp" + b"\0" * 28 + b"".join(fixed(float(value)) for value in white)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _with_tag(profile: bytes, name: bytes, data: bytes) -> bytes:
    """The profile with one tag more, at its end; its other tags move by one entry of the table."""
    count = int.from_bytes(profile[128:132])
    table_end = 132 + 12 * count
    entries = [struct.unpack_from(">4sII", profile, at) for at in range(132, table_end, 12)]
    entries = [(each, at + 12, length) for each, at, length in entries]
    entries.append((name, len(profile) + 12, len(data)))
    table = b"".join(struct.pack(">4sII", *entry) for entry in entries)
    size = (len(profile) + 12 + len(data)).to_bytes(4)
    return size + profile[4:128] + (count + 1).to_bytes(4) + table + profile[table_end:] + data


def _elements(count: int) -> bytes:
    """A list (ICC.1:2022 10.20) of so many entries, all of them the one set of curves at its end."""
    curve = b"curf" + bytes(4) + struct.pack(">HH", 1, 0)
    curve += b"parf" + bytes(4) + struct.pack(">HH4f", 0, 0, 1.2, 1.0, 0.0, 0.0)
    curves = b"cvst" + bytes(4) + struct.pack(">HH", 3, 3) + struct.pack(">II", 36, len(curve)) * 3 + curve
    entries = struct.pack(">II", 16 + 8 * count, len(curves)) * count
    return b"mpet" + bytes(4) + struct.pack(">HHI", 3, 3, count) + entries + curves


PROPHOTO = _profile(1.8, ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_wide_profile_is_converted_to_srgb(kind: str, mode: str) -> None:
    if (kind, mode) == ("JPEG", "RGBA"):
        mode = "RGB"
    how = {"quality": 100} if kind in ("JPEG", "WEBP") else {}
    stored = Image.new(mode, (16, 16), (120, 90, 60, 255)[: len(mode)])
    decoded = decode(encoded(stored, kind, icc_profile=PROPHOTO, **how), max_pixels=MANY)
    red, green, blue = np.asarray(decoded)[8, 8]
    # By the matrices of ROMM RGB (ISO 22028-2) and of sRGB, adapted from D50 to D65 by Bradford.
    assert np.abs(np.subtract((int(red), int(green), int(blue)), (168, 101, 69))).max() <= 4


# Their primaries, adapted from D65 to D50 by Bradford, as profiles store them.
ADOBE_RGB = _profile(563 / 256, ((0.6484, 0.3309), (0.2302, 0.7016), (0.1559, 0.0661)))
DISPLAY_P3 = _profile(2.2, ((0.682, 0.3193), (0.2846, 0.6746), (0.1559, 0.0661)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "stored", "expected"),
    [
        # By the matrices of Adobe RGB (1998) and SMPTE EG 432-1, and the curve and matrix of sRGB.
        (ADOBE_RGB, (120, 90, 60), (131, 90, 56)),
        (DISPLAY_P3, (120, 90, 60), (127, 88, 52)),
        (ADOBE_RGB, (200, 200, 200), (200, 200, 200)),  # white and grey stay
        (DISPLAY_P3, (255, 255, 255), WHITE),
    ],
)
def test_cameras_and_phones_profiles_are_converted_to_srgb(
    profile: bytes, stored: tuple[int, int, int], expected: tuple[int, int, int]
) -> None:
    for kind in ("PNG", "TIFF"):
        upload = encoded(Image.new("RGB", (2, 2), stored), kind, icc_profile=profile)
        assert np.abs(np.subtract(_pixels(upload)[0], expected)).max() <= 2


@pytest.mark.parametrize("name", [b"D2B0", b"D2B1", b"D2B3"])
def test_a_list_of_elements_is_passed_over_and_the_profile_used(name: bytes) -> None:
    """With these 100,000 in it lcms took a core for over a minute, and a PNG for it had 607 bytes."""
    profile = _with_tag(PROPHOTO, name, _elements(100_000))
    begun = time.process_time()
    pixel = _pixels(encoded(Image.new("RGB", (2, 2), (120, 90, 60)), icc_profile=profile))[0]
    assert time.process_time() - begun < 5
    assert np.abs(np.subtract(pixel, (168, 101, 69))).max() <= 4


def test_a_profile_of_more_tags_than_lcms_takes_is_passed_over() -> None:
    profile = PROPHOTO[:128] + (2**31).to_bytes(4) + PROPHOTO[132:]
    assert _pixels(encoded(Image.new("RGB", (2, 2), (120, 90, 60)), icc_profile=profile))[0] == (120, 90, 60)


def _cmyk_profile() -> bytes:
    """A printer's profile with a table of two points an ink (lut8, ICC.1:2010 10.9): four inks make black."""
    corners = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    lightness = [255 * (4 - sum(inks)) // 4 for inks in corners]
    straight = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0))
    table += b"".join(struct.pack(">i", 65536 * (n % 4 == 0)) for n in range(9))
    table += straight * 4 + b"".join(bytes((light, 128, 128)) for light in lightness) + straight * 3
    at = 132 + 12
    size = at + len(table) + (-len(table)) % 4
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x2400000, b"prtr", b"CMYK", b"Lab ")
    head += b"\0" * 12 + b"acsp" + b"\0" * 28 + struct.pack(">iii", 63190, 65536, 54061)
    entry = b"A2B0" + struct.pack(">II", at, len(table))
    return (head.ljust(128, b"\0") + struct.pack(">I", 1) + entry + table).ljust(size, b"\0")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inks", "grey"),
    [((0, 0, 0, 0), 255), ((255, 255, 255, 255), 0), ((255, 255, 0, 0), 119), ((0, 0, 255, 255), 119)],
)
def test_cmyk_with_a_profile_is_seen_by_it(inks: tuple[int, int, int, int], grey: int) -> None:
    # Two of four inks are L* 50, which is 119 in sRGB; without the profile they are blue, or black.
    upload = encoded(Image.new("CMYK", (8, 8), inks), "TIFF", icc_profile=_cmyk_profile())
    assert np.abs(np.subtract(_pixels(upload)[0], (grey,) * 3)).max() <= 3


def test_a_device_s_black_is_black() -> None:
    """This one's has 8 percent of white's light: a grey of 79 without black point compensation."""
    straight = struct.pack(">4sIII", b"para", 0, 0, 65536)
    raised = struct.pack(">4sIIHH", b"curv", 0, 2, 5000, 65535)
    profile = _profile(1.0, ((0.64, 0.33), (0.3, 0.6), (0.15, 0.06))).replace(straight, raised)
    upload = encoded(Image.new("RGB", (8, 8), "black"), icc_profile=profile)
    assert max(_pixels(upload)[0]) <= 3


def test_srgb_s_profile_costs_nothing_after_the_first_look() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    stored = Image.fromarray(np.random.default_rng(1).integers(0, 255, (8, 8, 3), dtype=np.uint8))
    decoded = decode(encoded(stored, icc_profile=srgb), max_pixels=MANY)
    assert np.array_equal(np.asarray(decoded), np.asarray(stored))
    assert colours._conversion(srgb, "RGB") is None


def test_a_grey_profile_is_applied_and_the_picture_stays_grey() -> None:
    linear = bytearray(_profile(1.0, ((0.64, 0.33), (0.3, 0.6), (0.15, 0.06))))
    linear[16:20] = b"GRAY"
    at = bytes(linear).index(b"rTRC")
    linear[at : at + 4] = b"kTRC"
    decoded = decode(encoded(Image.new("L", (2, 2), 55), icc_profile=bytes(linear)), max_pixels=MANY)
    assert decoded.mode == "L"
    assert abs(int(np.asarray(decoded)[0, 0]) - 127) <= 2  # 0.2157 of the light


@pytest.mark.parametrize("how", ["alpha", "key"])
def test_a_grey_profile_is_applied_under_transparency_too(how: str) -> None:
    profile = bytearray(_profile(1.0, ((0.64, 0.33), (0.3, 0.6), (0.15, 0.06))))
    profile[16:20] = b"GRAY"
    at = bytes(profile).index(b"rTRC")
    profile[at : at + 4] = b"kTRC"
    grey = Image.new("L", (2, 1), 55)
    grey.putpixel((1, 0), 9)
    if how == "alpha":
        grey.putalpha(Image.frombytes("L", (2, 1), b"\xff\0"))
        upload = encoded(grey, icc_profile=bytes(profile))
    else:
        upload = encoded(grey, icc_profile=bytes(profile), transparency=9)
    opaque, clear = _pixels(upload)
    assert np.abs(np.subtract(opaque, 127)).max() <= 2  # 0.2157 of the light
    assert clear == WHITE


def test_a_profile_that_moves_colours_a_little_is_used() -> None:
    """By 10 of 255: nobody's rounding. sRGB's own primaries, and a curve that is nearly its."""
    srgb = ((0.6484, 0.3309), (0.3212, 0.5979), (0.1559, 0.0661))
    upload = encoded(Image.new("RGB", (2, 2), (120, 120, 120)), icc_profile=_profile(2.0, srgb))
    assert 127 <= _pixels(upload)[0][0] <= 134  # 255 * srgb((120 / 255) ** 2.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "profile",
    [b"no profile", PROPHOTO[:200], PROPHOTO.replace(b"RGB ", b"CMYK", 1), PROPHOTO + b"\0" * (4 << 20)],
)
def test_a_profile_that_can_not_be_used_is_passed_over(profile: bytes) -> None:
    stored = Image.new("RGB", (4, 4), (120, 90, 60))
    buffer = io.BytesIO()
    stored.save(buffer, "TIFF", icc_profile=profile)
    assert _pixels(buffer.getvalue())[0] == (120, 90, 60)
