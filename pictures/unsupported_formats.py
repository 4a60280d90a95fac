"""What a file is called that is not taken, by its first bytes.

Owns these words alone: they let a refusal say what came. Reads no more than a file's beginning.
"""

from typing import Final

_BEGINNINGS: Final = (
    (b"%PDF", "a PDF"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML document or an SVG drawing"),
    (b"<!DOCTYPE", "an HTML page"),
    (b"<!doctype", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"%!PS", "PostScript"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "a Photoshop document"),
    (b"FUJIFILM", "a camera's raw picture"),
    (b"PK\x03\x04", "a ZIP archive or an Office document"),
    (b"\x1f\x8b", "gzip data (send it with Content-Encoding: gzip)"),
    (b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
    (b"gimp xcf", "a GIMP document"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
)

_BRANDS: Final = {b"crx ": "a camera's raw picture (CR3)", b"qt  ": "a video (QuickTime)"}

_BY_PILLOW: Final = {
    "EPS": "PostScript",
    "ICO": "an icon (ICO)",
    "ICNS": "an icon (ICNS)",
    "PPM": "a Netpbm picture",
    "PSD": "a Photoshop document",
    "TGA": "TGA",
    "DDS": "a DirectDraw texture",
}


def name(upload: bytes, pillow: list[str]) -> str:
    """The kind of a file, with its article; `pillow` has the formats that it may be. Empty: unknown."""
    text = upload[:256].removeprefix(b"\xef\xbb\xbf").lstrip()
    for beginning, words in _BEGINNINGS:
        if upload.startswith(beginning) or text.startswith(beginning):
            return words
    if upload[4:8] == b"ftyp":
        return _BRANDS.get(upload[8:12], "a video (MP4) or a picture of a rare kind")
    return next((_BY_PILLOW.get(each, f"a picture in the format {each}") for each in pillow), "")
