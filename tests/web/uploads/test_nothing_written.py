"""An upload is held in memory alone: while it is read, decoded and answered no file is opened for writing."""

import io
import os
import sys

import numpy as np
import pytest
from PIL import Image

from tests.support.service import Service

_written: list[str] = []
_watching = False


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and event == "open":
        path, mode, flags = arguments
        is_written = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        if is_written or (isinstance(mode, str) and set(mode) & set("wax+")):
            _written.append(str(path))


sys.addaudithook(_note)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
@pytest.mark.parametrize("way", ["form", "body"])
def test_no_upload_is_written_to_a_file(running: Service, kind: str, way: str) -> None:
    global _watching  # noqa: PLW0603 - a hook can't be taken away again
    picture = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 255, (900, 1200, 3), np.uint8)
    Image.fromarray(noise).save(picture, kind)
    assert len(picture.getvalue()) > 600_000  # where others begin to write: Werkzeug's own parser at 500 KB
    body, content_type = picture.getvalue(), f"image/{kind.lower()}"
    if way == "form":  # by hand: Flask's client would write it to a file
        part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        body, content_type = part + body + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"
    _written.clear()
    _watching = True
    try:
        answer = running.client.post("/predict", data=body, content_type=content_type)
    finally:
        _watching = False
    assert answer.status_code == 200, answer.text
    # A number is a pipe: to the process that decodes a TIFF, which may write no file (test_confined.py).
    assert [path for path in _written if not path.isdigit() and path != os.devnull] == []
