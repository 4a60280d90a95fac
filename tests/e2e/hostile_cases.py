"""Hostile and broken requests as data: what is sent, and the one answer that is right.

Used by the test, and by the campaign that prints docs/reliability.md's table. For a service of shades (its
label is the grey of the upright picture's corner) that takes MAX_UPLOAD_MB.
"""

import base64
import contextlib
import http.client
import io
import json
import select
import socket
import struct
import time
import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import pillow_heif
from PIL import Image
from PIL.PngImagePlugin import PngInfo

MAX_UPLOAD_MB: Final = 2
_LIMIT: Final = MAX_UPLOAD_MB * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent in one go; then the client waits, closes its side, or sends a byte each second."""

    name: str
    sent: bytes
    status: int
    told: str
    """The error's code; the label, where the status is 200."""
    closes_its_side: bool = False
    trickles: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: `told` as in Case, `problem` where the answer's shape is not the service's own."""

    status: int
    told: str
    after_ms: float
    problem: str = ""


def talk(address: tuple[str, int], case: Case) -> Answer:
    """Send a case over a connection of its own and read the answer."""
    began = time.monotonic()
    with socket.create_connection(address, timeout=60) as client:
        with contextlib.suppress(ConnectionError):  # refused before all of it was sent
            client.sendall(case.sent)
        if case.closes_its_side:
            client.shutdown(socket.SHUT_WR)
        while case.trickles and not select.select([client], [], [], 1.0)[0]:
            with contextlib.suppress(ConnectionError):
                client.sendall(b"x")
        response = http.client.HTTPResponse(client)
        response.begin()
        body = json.loads(response.read())
        after_ms = (time.monotonic() - began) * 1000
        response.close()
    if response.status == 200:
        return Answer(200, body["predictions"][0]["label"], after_ms)
    shape = (body.get("success"), set(body), set(body.get("error", {})), response.headers.get_content_type())
    sound = (False, {"success", "error", "request_id"}, {"code", "message"}, "application/json")
    return Answer(response.status, body["error"]["code"], after_ms, "" if shape == sound else str(body))


def http_request(*fields: str, body: bytes = b"", line: str = "POST /predict HTTP/1.1") -> bytes:
    """A request with these header fields."""
    return "\r\n".join([line, "Host: x", *fields, "", ""]).encode("latin-1") + body


def raw(picture: bytes, kind: str = "image/png") -> bytes:
    """A picture as the body."""
    return http_request(f"Content-Type: {kind}", f"Content-Length: {len(picture)}", body=picture)


def form(*parts: tuple[str, str, bytes]) -> bytes:
    """A form of (field, file name or nothing, content)."""
    body = b""
    for field, name, content in parts:
        file = f'; filename="{name}"' if name else ""
        body += f'--b\r\nContent-Disposition: form-data; name="{field}"{file}\r\n\r\n'.encode()
        body += content + b"\r\n"
    body += b"--b--\r\n"
    return raw(body, "multipart/form-data; boundary=b")


def picture(image: Image.Image, kind: str = "PNG", **how: object) -> bytes:
    """An image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def grey(value: int, size: tuple[int, int] = (32, 24)) -> Image.Image:
    """An even picture."""
    return Image.new("L", size, value)


def _image(upload: bytes) -> bytes:
    return form(("image", "x.png", upload))


def _rotated() -> bytes:
    """Lying on its side as a camera stores it: upright its top left corner is 50, all else 200."""
    upright = grey(200, (8, 8))
    upright.paste(50, (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)


def _palette() -> bytes:
    """A corner of grey 90, the rest transparent."""
    image = Image.new("P", (8, 8), 1)
    image.putpalette([90, 90, 90, 0, 0, 0])
    image.paste(0, (0, 0, 4, 4))
    return picture(image, transparency=1)


def _bomb(side: int) -> bytes:
    """A PNG of a hundred bytes that says it is so wide and so high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


def painted_over(side: int, scans: int) -> bytes:
    """A grey progressive JPEG with its last scan, of 75 bytes or fewer, so many times more."""
    jpeg = picture(grey(40, (side, side)), "JPEG", progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:last] + jpeg[last:-2] * (scans + 1) + jpeg[-2:]


def _wordy() -> bytes:
    """A PNG with more text, compressed, than Pillow reads."""
    words = PngInfo()
    words.add_text("Comment", "x" * 2_000_000, zip=True)
    return picture(grey(40), pnginfo=words)


pillow_heif.register_heif_opener()
_HEIC: Final = picture(grey(40), "HEIF", quality=-1)
_NOISE: Final = Image.fromarray(np.random.default_rng(1).integers(0, 255, (60, 60, 3), dtype=np.uint8))
_JPEG: Final = picture(_NOISE, "JPEG")
_PNG: Final = picture(_NOISE)
_JSON: Final = "application/json"
_IN_JSON: Final = json.dumps({"image": base64.b64encode(picture(grey(40))).decode()}).encode()
_NAMELESS: Final = b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n"
GOOD: Final = Case("a good picture", _image(picture(grey(77))), 200, "77")

PICTURES: Final = [
    Case("a JPEG cut in the middle", _image(_JPEG[: len(_JPEG) // 2]), 400, "invalid_image"),
    Case("a PNG with bytes changed", _image(_PNG[:900] + b"\0" * 90 + _PNG[990:]), 400, "invalid_image"),
    Case("no bytes at all", _image(b""), 400, "invalid_image"),
    Case("text named .png", _image(b"not a picture"), 400, "invalid_image"),
    Case("a client that closes its sending side", _image(picture(grey(40))), 200, "40", closes_its_side=True),
    Case("two slashes in a path", http_request(line="GET /predictions//x HTTP/1.1"), 404, "not_found"),
    Case("a PDF named .png", _image(b"%PDF-1.7 ..."), 415, "unsupported_format"),
    Case("an SVG", _image(b'<svg xmlns="http://www.w3.org/2000/svg"/>'), 415, "unsupported_format"),
    Case("the head of a HEIC photo alone", _image(_HEIC[:60]), 400, "invalid_image"),
    Case("a HEIC photo", _image(_HEIC), 200, "40"),
    Case("an AVIF", _image(picture(grey(40), "AVIF")), 200, "40"),
    Case("JPEG XL", _image(b"\xff\x0a" + b"\0" * 50), 415, "unsupported_format"),
    Case("a film", _image(b"\0\0\0\x18ftypmp42" + b"\0" * 50), 415, "unsupported_format"),
    Case("a PNG with 2 MB of text in it", _image(_wordy()), 200, "40"),
    Case("a PNG of 100 bytes and 3.6 gigapixels", _image(_bomb(60_000)), 413, "too_large"),
    Case("a JPEG that paints over itself 400 times", _image(painted_over(2400, 400)), 400, "invalid_image"),
    Case("a GIF named .png", _image(picture(grey(40), "GIF")), 200, "40"),
    Case(
        "an animated GIF: its first frame",
        _image(picture(grey(40), "GIF", save_all=True, append_images=[grey(90)])),
        200,
        "40",
    ),
    Case("CMYK", _image(picture(Image.new("CMYK", (9, 9), (0, 0, 0, 155)), "TIFF")), 200, "100"),
    Case("16 bits", _image(picture(Image.new("I;16", (9, 9), 257 * 40))), 200, "40"),
    Case("a palette with transparency", _image(_palette()), 200, "90"),
    Case("half transparent black", _image(picture(Image.new("RGBA", (9, 9), (0, 0, 0, 127)))), 200, "128"),
    Case("1 x 1", _image(picture(grey(40, (1, 1)))), 200, "40"),
    Case("20,000 x 1", _image(picture(grey(60, (20_000, 1)))), 200, "60"),
    Case("turned by its EXIF orientation", _image(_rotated()), 200, "50"),
]

FORMS: Final = [
    Case("a picture as text/plain", raw(_PNG, "text/plain"), 415, "unsupported_format"),
    Case("a picture as application/json", raw(_PNG, "application/json"), 400, "bad_request"),
    Case("JSON 100,000 lists deep", raw(b'{"image": ' + b"[" * 100_000, _JSON), 400, "bad_request"),
    Case("an address in JSON", raw(b'{"image": "file:///etc/passwd"}', _JSON), 400, "invalid_image"),
    Case("a picture in JSON", raw(_IN_JSON, _JSON), 200, "40"),
    Case("a PNG as image/jpeg", raw(picture(grey(40)), "image/jpeg"), 200, "40"),
    Case("no Content-Type, no picture", http_request("Content-Length: 3", body=b"abc"), 400, "invalid_image"),
    Case("a form without its boundary", raw(_PNG, "multipart/form-data"), 400, "bad_request"),
    Case("another field's name", form(("photo", "x.png", _PNG)), 400, "bad_request"),
    Case("text in the picture's field", form(("image", "", b"photo.png")), 400, "bad_request"),
    Case("a form with no parts", form(), 400, "bad_request"),
    Case("a form part without a name", raw(_NAMELESS, "multipart/form-data; boundary=b"), 400, "bad_request"),
    Case("no body", http_request(), 400, "bad_request"),
    Case("65 pictures", form(*[("image", "x.png", b"x")] * 65), 400, "bad_request"),
    Case("5,000 form parts", form(*[("a", "", b"b")] * 5000), 413, "too_large"),
    Case("GET", http_request(line="GET /predict HTTP/1.1"), 405, "method_not_allowed"),
]

_CHUNKED: Final = http_request("Content-Type: image/png", "Transfer-Encoding: chunked")

BODIES: Final = [
    Case("the head of a body of 1 GB", http_request("Content-Length: 1073741824"), 413, "too_large"),
    Case("all of a body that is too large", raw(b"x" * (_LIMIT + 1)), 413, "too_large"),
    Case("chunks without an end", _CHUNKED + b"10000\r\n%b\r\n" % (b"x" * 65536) * 33, 413, "too_large"),
    Case("a chunk's size that is no number", _CHUNKED + b"ZZZ\r\n", 400, "bad_request"),
    Case("a body cut short", raw(_PNG)[:-9], 400, "bad_request", closes_its_side=True),
    Case("an address of 5 KB", http_request(line=f"GET /{'x' * 5000} HTTP/1.1"), 414, "uri_too_long"),
    Case("200 header fields", http_request(*["A: b"] * 200), 431, "header_too_large"),
    Case("a head of 40 KB", http_request("A: " + "x" * 40_000), 431, "header_too_large"),
]

SLOW: Final = [
    Case("half a head, then nothing", b"POST /predict HTT", 408, "upload_timeout"),
    Case("half a head, then a byte a second", b"POST /", 408, "upload_timeout", trickles=True),
    Case("half a body, then nothing", raw(_PNG)[:-900], 408, "upload_timeout"),
    Case("half a body, then a byte a second", raw(_PNG)[:-900], 408, "upload_timeout", trickles=True),
    Case("half a chunk, then nothing", _CHUNKED + b"5\r\nab", 408, "upload_timeout"),
]

CASES: Final = [*PICTURES, *FORMS, *BODIES, *SLOW]
