"""The pattern that Batchwire comes from (Keras + Redis + Flask, 2018), made again to measure against.

Owns what its two programs agree on and do: float32 in base64 through one list, LRANGE / LTRIM, sleeps of a
quarter of a second on both sides. Faithful to its defects (docs/decisions.md); never to be used.
"""

import base64
import io
import json
import time
import uuid
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import redis
from numpy.typing import NDArray
from PIL import Image

QUEUE: Final = "image_queue"
SHAPE: Final = (224, 224, 3)
BATCH_SIZE: Final = 32
SLEEP_S: Final = 0.25

Floats = NDArray[np.float32]


def prepare(picture: bytes) -> Floats:
    """Decode whole and resize, as float32."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    return np.array(image.resize(SHAPE[:2], Image.Resampling.BICUBIC), dtype=np.float32)


def pack(job_id: str, pixels: Floats) -> str:
    """A job as it lies in the list."""
    return json.dumps({"id": job_id, "image": base64.b64encode(pixels.tobytes()).decode("ascii")})


def unpack(entry: bytes) -> tuple[str, Floats]:
    """A job's id and its pixels."""
    job = json.loads(entry)
    return job["id"], np.frombuffer(base64.b64decode(job["image"]), np.float32).reshape(SHAPE)


def ask(db: redis.Redis, picture: bytes, *, sleep: Callable[[float], object] = time.sleep) -> Any:  # noqa: ANN401
    """The web half: put the picture into the list, then look for its answer until it is there."""
    job_id = str(uuid.uuid4())
    db.rpush(QUEUE, pack(job_id, prepare(picture)))
    while (answer := db.get(job_id)) is None:
        sleep(SLEEP_S)
    db.delete(job_id)
    return json.loads(answer)


def serve_once(db: redis.Redis, predict: Callable[[Floats], Floats]) -> int:
    """The model half, without its sleep: read what is there, run it, write the answers, trim the list."""
    entries: list[Any] = list(db.lrange(QUEUE, 0, BATCH_SIZE - 1))
    if not entries:
        return 0
    jobs = [unpack(entry) for entry in entries]
    outputs = predict(np.stack([pixels for _, pixels in jobs]))
    for (job_id, _), row in zip(jobs, outputs, strict=True):
        best = np.argsort(-row)[:5]
        db.set(job_id, json.dumps([{"label": int(i), "probability": float(row[i])} for i in best]))
    db.ltrim(QUEUE, len(jobs), -1)
    return len(jobs)
