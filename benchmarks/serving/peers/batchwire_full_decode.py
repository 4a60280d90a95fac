"""Batchwire's web tier with JPEGs decoded whole, as the others do: `gunicorn ...batchwire_full_decode:app`.

Owns the one difference to the product: Pillow is not asked for a smaller decode.
"""

from typing import Final

from PIL import JpegImagePlugin

JpegImagePlugin.JpegImageFile.draft = lambda *_: None  # type: ignore[method-assign, assignment, misc]

from web.wsgi import app as _app  # noqa: E402 - after the change

app: Final = _app
