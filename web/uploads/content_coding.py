"""A body that its client has compressed (RFC 9110, section 8.4), inflated within a bound.

Owns which codings are supported. Knows no content type.
"""

import zlib
from typing import Final

import brotli

from broker.errors import ClientError
from web.errors import UnsupportedUpload
from web.server.refusals import UploadTooLarge

SUPPORTED: Final = "gzip, deflate, br"

_BROKEN: Final = "The body is not the {} that its Content-Encoding names, or was cut short; send it again."

_STEP: Final = 64 * 1024
"""Bytes that gzip takes, and that Brotli gives, at once (it may give a little more)."""

_MOST_MEMBERS: Final = 1000
"""Of a gzip body; block compressors write one for each 64 KB."""


def decoded(body: bytes, codings: str, *, at_most: int) -> bytes:
    """The body without its codings, of at most so many bytes after each of them.

    Raises ClientError, UnsupportedUpload or UploadTooLarge.
    """
    names = [name.strip().lower() for name in codings.split(",") if name.strip()]
    if len(names) > 2:
        raise UnsupportedUpload("Content-Encoding names more than two codings; send the body with one.")
    for name in reversed(names):
        match name:
            case "identity":
                continue
            case "gzip" | "x-gzip":
                body = _inflated(body, "gzip", 16 + zlib.MAX_WBITS, at_most)
            case "deflate":
                # Some clients leave out zlib's header, which has 8 in these bits.
                wrapped = bool(body) and body[0] & 15 == 8 and int.from_bytes(body[:2]) % 31 == 0
                body = _inflated(body, name, zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS, at_most)
            case "br":
                body = _unbrotlied(body, at_most)
            case _:
                raise UnsupportedUpload(
                    f"Content-Encoding: {name[:40]} is not supported; send the body as it is, or in "
                    f"{SUPPORTED}."
                )
    return body


def _inflated(body: bytes, name: str, window: int, at_most: int) -> bytes:
    view, at, members = memoryview(body), 0, 0
    pieces, left = [], at_most
    inflate = zlib.decompressobj(window)
    while at < len(view):
        # In steps: what comes after a member is copied, which was 2 s for 1,000 of them before 20 MB.
        step = view[at : at + _STEP]
        try:
            pieces.append(inflate.decompress(step, left + 1))
        except zlib.error:
            raise ClientError(_BROKEN.format(name)) from None
        left -= len(pieces[-1])
        if left < 0:
            raise UploadTooLarge.than(at_most, "also once it is inflated")
        at += len(step) - len(inflate.unused_data)
        if inflate.eof:
            members += 1
            if at == len(view):
                break
            if name != "gzip":
                raise ClientError(_BROKEN.format(name))
            if members == _MOST_MEMBERS:
                raise ClientError(f"The gzip body has more than {members} members; send it as one.")
            inflate = zlib.decompressobj(window)
    if not inflate.eof:
        raise ClientError(_BROKEN.format(name))
    return b"".join(pieces)


def _unbrotlied(body: bytes, at_most: int) -> bytes:
    inflate = brotli.Decompressor()
    pieces, size = [], 0
    try:
        while True:
            piece = inflate.process(body, output_buffer_limit=_STEP)
            body = b""
            size += len(piece)
            if size > at_most:
                raise UploadTooLarge.than(at_most, "also once it is inflated")
            pieces.append(piece)
            if inflate.is_finished():
                return b"".join(pieces)
            if not piece and inflate.can_accept_more_data():
                raise ClientError(_BROKEN.format("br"))
    except brotli.error:
        raise ClientError(_BROKEN.format("br")) from None
