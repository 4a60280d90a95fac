"""Small pictures as files, and the forms that upload them. Knows nothing of the service."""

import io

from PIL import Image


def png(value: int, *, size: tuple[int, int] = (40, 30)) -> bytes:
    """A grey picture as PNG."""
    return encoded(Image.new("L", size, value))


def encoded(image: Image.Image, kind: str = "PNG", **how: object) -> bytes:
    """A picture as a file of that kind."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def form(*pictures: bytes, field: str = "image") -> dict[str, object]:
    """A form with these pictures, as the test client takes it."""
    return {field: [(io.BytesIO(each), f"{number}.png") for number, each in enumerate(pictures)]}
