"""Small pictures as files, and the forms that upload them. Knows nothing of the service."""

import io

from PIL import Image, ImageDraw, ImageFont


def png(value: int, *, size: tuple[int, int] = (40, 30)) -> bytes:
    """A grey picture as PNG."""
    return encoded(Image.new("L", size, value))


def drawn_digit(value: int) -> bytes:
    """A digit in dark ink on white paper, as JPEG."""
    image = Image.new("RGB", (300, 400), (244, 242, 236))
    draw = ImageDraw.Draw(image)
    if value == 1:  # as written by hand: a stroke; the font's has a long flag
        draw.line((160, 90, 140, 320), fill=(30, 30, 90), width=26)
    else:
        draw.text((90, 60), str(value), fill=(30, 30, 90), font=ImageFont.load_default(260))
    return encoded(image, "JPEG")


def encoded(image: Image.Image, kind: str = "PNG", **how: object) -> bytes:
    """A picture as a file of that kind."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def form(*pictures: bytes, field: str = "image") -> dict[str, object]:
    """A form with these pictures, as the test client takes it."""
    return {field: [(io.BytesIO(each), f"{number}.png") for number, each in enumerate(pictures)]}
