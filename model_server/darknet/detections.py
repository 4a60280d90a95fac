"""The last layer of a Darknet detector: decodes its [yolo] layers into boxes, class scores and objectness.

Owns the decoding (Redmon and Farhadi 2018, "YOLOv3", section 2.1; Bochkovskiy et al. 2020, "YOLOv4", for
scale_x_y; Wang et al. 2021, "Scaled-YOLOv4", for new_coords). It is one layer, the last of the network, so
that it computes in float32 whatever the others do: in bf16 a centre would be off by 2 pixels of 640.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from model_server.darknet.layers import Size, Yolo


class Detections(keras.layers.Layer):  # type: ignore[misc] # Keras has no types
    """Gives, for n boxes: (n, 4) centre and sides as shares of the image, (n, classes) and (n).

    Boxes come scale by scale, row by row, cell by cell, anchor by anchor. The probability of a class is its
    score times the objectness.
    """

    def __init__(self, yolos: list[Yolo], grids: list[Size], picture: tuple[int, int]) -> None:
        """`grids` are the sizes of the inputs, `picture` is (height, width) of the network's input."""
        super().__init__(name="detections", dtype="float32")
        self._yolos = yolos
        self._grids = grids
        self._picture = picture

    def call(self, raw: list[Any]) -> list[Any]:
        """See the class."""
        scales = [
            self._decode(scale, yolo, grid)
            for scale, yolo, grid in zip(raw, self._yolos, self._grids, strict=True)
        ]
        return [ops.concatenate(parts, axis=1) for parts in zip(*scales, strict=True)]

    def _decode(self, raw: Any, yolo: Yolo, grid: Size) -> tuple[Any, Any, Any]:  # noqa: ANN401
        rows, columns, _ = grid
        cells = rows * columns
        raw = ops.reshape(raw, (-1, cells, len(yolo.anchors), 5 + yolo.classes))
        if not yolo.is_new:
            centres, sides = ops.sigmoid(raw[..., :2]), ops.exp(raw[..., 2:4])
            others = ops.sigmoid(raw[..., 4:])
        else:
            centres, sides = raw[..., :2], ops.square(raw[..., 2:4] * 2)
            others = raw[..., 4:]
        y, x = np.divmod(np.arange(cells, dtype=np.float32), columns)
        corners = np.stack([x, y], axis=1)[None, :, None, :]
        centres = (centres * yolo.scale - (yolo.scale - 1) / 2 + corners) / np.array(
            [columns, rows], np.float32
        )
        height, width = self._picture
        sides = sides * (np.array(yolo.anchors, np.float32) / np.array([width, height], np.float32))
        boxes = ops.concatenate([centres, sides], axis=-1)
        count = cells * len(yolo.anchors)
        return (
            ops.reshape(boxes, (-1, count, 4)),
            ops.reshape(others[..., 1:], (-1, count, yolo.classes)),
            ops.reshape(others[..., 0], (-1, count)),
        )
