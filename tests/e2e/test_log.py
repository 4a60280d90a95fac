"""What the web tier's log must not tell, whatever its level."""

import io
from pathlib import Path

import pytest
from PIL import Image

from tests.support import http
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

ARTIST = 0x013B


def test_at_debug_a_photo_s_own_words_stay_out_of_the_log(own_redis: RedisServer, tmp_path: Path) -> None:
    stack = Stack(tmp_path, own_redis.url)
    stack.environment["LOG_LEVEL"] = "debug"
    try:
        stack.start_web()
        stack.start_model_server()
        photo = Image.new("RGB", (40, 30))
        exif = photo.getexif()
        exif[ARTIST] = "Jane Doe"
        file = io.BytesIO()
        photo.save(file, "JPEG", exif=exif)
        picture = {"image": ("x.jpg", file.getvalue())}
        assert http.post(f"{stack.url}/predict", files=picture).status_code == 200
    finally:
        stack.stop()
    log = (tmp_path / "web.log").read_text()
    assert "POST /predict: 200" in log
    assert "Jane Doe" not in log
    assert " PIL." not in log
