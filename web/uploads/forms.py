"""A multipart form (RFC 7578), read from a body that is here whole.

Owns the bounds on a form and the words of its refusal; the `multipart` library parses (Werkzeug's own parser
took 0.42 ms for a picture of 100 KB, this one 0.02). Knows no field by name.
"""

import logging
import re
from dataclasses import dataclass, field
from typing import Final

import multipart
import pybase64

from broker.errors import ClientError
from web.server.refusals import UploadTooLarge

_LOG: Final = logging.getLogger(__name__)

MAX_PARTS: Final = 1000
"""Fields of a form, files among them."""

MAX_TEXT_BYTES: Final = 500_000
"""All fields that are no files, together."""

_BASE64: Final = re.compile(rb"(?!P[1-3]\s)[A-Za-z0-9+/\s]++={0,2}+\s*+")
"""A file of nothing else: of the picture formats only PPM (P1 to P3) has such bytes, but a file made with
base64 for `ab -p` does. The quantifiers give nothing back, so that a long upload is read once."""

BINARY_LOOK: Final = 4096
"""Where a NUL is looked for: every picture has one there, and no text has."""


@dataclass(slots=True)
class Form:
    """The fields of a form, each kind in the order sent."""

    files: list[tuple[str, bytes]] = field(default_factory=list)
    """Name and bytes. A file input that was left empty is none."""
    texts: dict[str, str] = field(default_factory=dict)
    """The first of each name."""


def read(body: bytes, boundary: str) -> Form:
    """Read a form. Raises ClientError (it is broken) or UploadTooLarge (it has too much in it)."""
    form, text_bytes = Form(), 0
    segment, data = None, b""
    if body.startswith(f"--{boundary}\n".encode()) and body.isascii():
        body = body.replace(b"\n", b"\r\n")  # written in an editor, for `ab -p`
    try:
        # Latin-1 takes any byte: clients send file names in the charset of a page or of their system.
        with multipart.PushMultipartParser(
            boundary, max_segment_count=MAX_PARTS, header_charset="latin-1"
        ) as parser:
            for event in parser.parse(body):  # of each part its head, then its bytes if it has any, then None
                if isinstance(event, multipart.MultipartSegment):
                    segment, data = event, b""
                elif event is not None:
                    data += event
                elif segment is not None:
                    name = segment.name.encode("latin-1", "replace").decode("utf-8", "replace")
                    if (file := _file(segment, name, data)) is not None:
                        form.files.append((name, file))
                    elif segment.filename is None:
                        text_bytes += len(data)
                        form.texts.setdefault(name, data.decode("utf-8", "replace"))
    except multipart.ParserLimitReached:
        raise UploadTooLarge(
            f"The form has more than {MAX_PARTS} fields, or a field whose header is too large."
        ) from None
    except multipart.MultipartError as error:
        _LOG.debug("A form is broken: %s", error)
        raise ClientError(
            "The form is broken or was cut short: its parts and the boundary in its Content-Type do not fit. "
            "Let your client write both."
        ) from None
    if text_bytes > MAX_TEXT_BYTES:
        raise UploadTooLarge(f"The form has more than {MAX_TEXT_BYTES} bytes of text.")
    return form


def _file(segment: multipart.MultipartSegment, name: str, data: bytes) -> bytes | None:
    """A file's bytes, decoded if they were sent in base64; None: the part is a text, or an empty file input.

    Raises ClientError: declared as base64, but it is not.
    """
    # Some clients still spell a name that is not ASCII as RFC 5987 does, which RFC 7578 forbids.
    if not segment.filename and "filename*=" not in segment.header("Content-Disposition", ""):
        # RFC 7578 wants a file name, but not all clients have one to send.
        kind = segment.content_type or ""
        is_typed = kind.startswith("image/") or kind == "application/octet-stream"
        if not data or not (is_typed or b"\0" in data[:BINARY_LOOK]):
            return None
    is_declared = segment.header("Content-Transfer-Encoding", "").strip().lower() == "base64"
    if not is_declared and not _BASE64.fullmatch(data):
        return data
    try:
        return pybase64.b64decode(b"".join(data.split()), validate=True)
    except ValueError:
        if is_declared:
            raise ClientError(
                f"The file in the field {name[:60]!r} is not base64, though its "
                "Content-Transfer-Encoding says so."
            ) from None
        return data
