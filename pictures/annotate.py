"""The annotated picture: what was found, drawn on the upload itself, as PNG.

Owns the look: boxes, masks and keypoints with their labels, or the labels of the whole picture in a corner.
Draws on a copy of bounded size, so that a large upload costs no more than its decoding; knows no HTTP and no
model.
"""

import colorsys
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from broker.messages import Mask, Prediction, Result, Skeleton, TaskResult
from pictures import decode, png, rle

LONGEST: Final = 2048
"""Pixels of the longer side, at most: an upload of 50 megapixels is drawn in 10 MB."""

SHORTEST: Final = 480
"""And at least: a small picture is enlarged until letters are small beside it."""

_LEAST_SIDE: Final = 160
"""A thin picture gets grey paper beside it: labels need that much."""

_LONGEST_NAME: Final = 60

_COVER: Final = 102
"""How much of a mask's colour covers the picture, of 255: 0.4."""

_PAPER: Final = (96, 96, 96)

Colour = tuple[int, int, int]
Area = tuple[int, int, int, int]
"""Left, top, right, bottom."""


def annotated(upload: bytes, result: Result | TaskResult, *, max_pixels: int) -> bytes:
    """The upload, upright, with the result drawn on it, as PNG; or the picture that the network made of it.

    Raises what fit.prepare does.
    """
    if result.image is not None:
        return png.of_pixels(result.image)
    predictions = result.predictions
    picture, original_size = decode.decode_at_most(upload, longest=LONGEST, max_pixels=max_pixels)
    page = _page(picture, original_size)
    boxed = [each for each in predictions if each.box is not None]
    if boxed:
        # The best last, on top of the others.
        for prediction in reversed(boxed):
            if prediction.mask is not None:
                page.mask(prediction, prediction.mask)
            else:
                page.outline(prediction)
        for prediction in reversed(boxed):
            if result.skeleton is not None:
                page.points(prediction, result.skeleton)
        for prediction in boxed:
            if prediction.mask is not None and prediction.area is not None:
                page.name(prediction, prediction.mask)
            else:
                page.label(prediction)
    else:
        page.list(predictions)
        page.values(result.values or {})
    return png.encode(page.image)


@dataclass(slots=True)
class _Page:
    """A picture to draw on, with its pen."""

    image: Image.Image
    original_size: tuple[int, int]
    """(width, height) of the upload."""
    scale: tuple[float, float]
    """From the upload's pixels to the image's."""
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont
    line: int
    taken: list[Area]
    """Where labels are already."""

    def outline(self, prediction: Prediction) -> None:
        """Draw the box of a prediction."""
        pen = ImageDraw.Draw(self.image)
        pen.rectangle(self._area(prediction), outline=colour(prediction.label), width=self.line)

    def mask(self, prediction: Prediction, mask: Mask) -> None:
        """Lay the colour of a prediction over its mask, thinly, and draw the mask's edge."""
        pixels = png.mask_pixels(mask)
        rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
        if not len(rows):
            return
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        across, down = (
            side * scale / cells
            for side, scale, cells in zip(self.original_size, self.scale, mask.size[::-1], strict=True)
        )
        area = (round(left * across), round(top * down), round(right * across), round(bottom * down))
        size = (max(1, area[2] - area[0]), max(1, area[3] - area[1]))
        drawn = Image.fromarray(pixels[top:bottom, left:right]).resize(size, Image.Resampling.NEAREST)
        inside = np.pad(np.asarray(drawn, np.bool_), self.line)
        core = inside
        for axis in (0, 1):
            core = core & np.roll(core, self.line, axis) & np.roll(core, -self.line, axis)
        line = slice(self.line, -self.line)
        cover = np.where(inside & ~core, 255, np.where(inside, _COVER, 0)).astype(np.uint8)[line, line]
        self.image.paste(colour(prediction.label), area[:2], Image.fromarray(cover))

    def points(self, prediction: Prediction, skeleton: Skeleton) -> None:
        """Draw the points of a prediction that are probable enough, and the lines between them."""
        points = prediction.keypoints or ()
        places = [(each.x * self.scale[0], each.y * self.scale[1]) for each in points]
        shown = [each.probability >= skeleton.least for each in points]
        pen, ink = ImageDraw.Draw(self.image), colour(prediction.label)
        for one, other in skeleton.lines:
            if max(one, other) < len(points) and shown[one] and shown[other]:
                pen.line([places[one], places[other]], fill=ink, width=self.line)
        for (x, y), is_shown in zip(places, shown, strict=True):
            if is_shown:
                pen.circle((x, y), 1.5 * self.line, fill=ink, outline="black")

    def label(self, prediction: Prediction) -> None:
        """Write a prediction at its box: above it, else below its upper edge, else below it."""
        left, top, _, bottom = self._area(prediction)
        text, width, height = self._measured(prediction)
        x = max(0, min(left, self.image.width - width))
        places = [(x, y) for y in (top - height, top, bottom) if 0 <= y <= self.image.height - height]
        places += [(x, max(0, min(top, self.image.height - height)))]
        areas = [(x, y, x + width, y + height) for x, y in places]
        area = next(
            (area for area in areas if not any(_overlap(area, other) for other in self.taken)), areas[0]
        )
        self._write(area, text, prediction.label)

    def name(self, prediction: Prediction, mask: Mask) -> None:
        """Write a prediction inside of its mask: many classes have the picture's corner as their box's."""
        text, width, height = self._measured(prediction)
        place = zip(
            rle.inside(png.mask_pixels(mask)), mask.size[::-1], self.original_size, self.scale, strict=True
        )
        x, y = (at / cells * side * scale for at, cells, side, scale in place)
        left = round(max(0, min(x - width / 2, self.image.width - width)))
        top = round(max(0, min(y - height / 2, self.image.height - height)))
        self._write((left, top, left + width, top + height), text, prediction.label)

    def list(self, predictions: tuple[Prediction, ...]) -> None:
        """Write predictions one below the other, from the upper left corner."""
        self._lines([(each.label, *self._measured(each)) for each in predictions])

    def values(self, values: dict[str, float]) -> None:
        """Write a regression's numbers, likewise."""
        texts = {label: self._fitting(label, label, f" {value:.4g}") for label, value in values.items()}
        self._lines([(label, *text) for label, text in texts.items()])

    def _lines(self, lines: Sequence[tuple[str, str, int, int]]) -> None:
        y = 0
        for label, text, width, height in lines:
            if y + height > self.image.height:
                return
            self._write((0, y, width, y + height), text, label)
            y += height

    def _write(self, area: Area, text: str, label: str) -> None:
        self.taken.append(area)
        paper = colour(label)
        pen = ImageDraw.Draw(self.image)
        pen.rectangle(area, fill=paper)
        ink = "black" if _luminance(paper) > 0.4 else "white"
        pen.text((area[0] + 2 * self.line, area[1] + self.line), text, fill=ink, font=self.font)

    def _area(self, prediction: Prediction) -> Area:
        x, y, width, height = prediction.box or (0, 0, 0, 0)
        across, down = self.scale
        left, top = round(x * across), round(y * down)
        right, bottom = round((x + width) * across) - 1, round((y + height) * down) - 1
        return left, top, max(left + 1, right), max(top + 1, bottom)

    def _measured(self, prediction: Prediction) -> tuple[str, int, int]:
        """The text of a prediction that fits into the picture, with its width and height."""
        share = prediction.probability if prediction.area is None else prediction.area
        return self._fitting(prediction.label, prediction.class_id, f" {share:.0%}")

    def _fitting(self, label: str, substitute: str, end: str) -> tuple[str, int, int]:
        """A label, or its substitute, and `end`; shortened until it fits; with its width and height."""
        name = " ".join(_legible(label, substitute).split())[:_LONGEST_NAME]
        while True:
            text = name + end
            # One height for all, so that lines of a list stand evenly.
            width = round(self.font.getlength(text)) + 4 * self.line
            if width <= self.image.width or len(name) < 4:
                break
            name = name.rstrip("…")[:-1] + "…"
        bottom = self.font.getbbox("Ágj")[3]
        return text, width, round(bottom) + 3 * self.line


def _legible(label: str, class_id: str) -> str:
    """The label in letters that the font has: without accents, else the class's id."""
    for text in (label, class_id):
        written = "".join(map(_written, text))
        if all(map(_is_in_font, written)):
            return written
    return "".join(each if _is_in_font(each) else "?" for each in written)


def _written(character: str) -> str:
    """A letter without its accents, where only so it is in the font."""
    if _is_in_font(character):
        return character
    return "".join(
        part for part in unicodedata.normalize("NFKD", character) if not unicodedata.combining(part)
    )


@lru_cache(maxsize=4096)
def _is_in_font(character: str) -> bool:
    font = ImageFont.load_default(16)
    return character.isspace() or bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))


def _page(picture: Image.Image, original_size: tuple[int, int]) -> _Page:
    """The picture at a size at which letters are legible."""
    grown = SHORTEST / max(picture.size)
    if grown > 1:
        size = tuple(max(1, round(side * grown)) for side in picture.size)
        picture = picture.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    scale = (picture.width / original_size[0], picture.height / original_size[1])
    if min(picture.size) < _LEAST_SIDE:
        paper = Image.new("RGB", (max(picture.width, _LEAST_SIDE), max(picture.height, _LEAST_SIDE)), _PAPER)
        paper.paste(picture)
        picture = paper
    longest = max(picture.size)
    font = ImageFont.load_default(max(16, longest / 45))
    return _Page(picture, original_size, scale, font, max(2, round(longest / 300)), [])


def colour(label: str) -> Colour:
    """A class's colour: the same on every picture, bright or dark by chance as well as by hue."""
    chance = zlib.crc32(label.encode())
    red, green, blue = colorsys.hls_to_rgb(chance % 360 / 360, (0.35, 0.5, 0.65)[chance // 360 % 3], 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


def _luminance(of: Colour) -> float:
    """How bright a colour looks, 0..1 (WCAG 2.2, relative luminance, without its gamma)."""
    return (0.2126 * of[0] + 0.7152 * of[1] + 0.0722 * of[2]) / 255


def _overlap(one: Area, other: Area) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
