"""The old pattern's web half: `gunicorn benchmarks.serving.peers.old_web:app`.

Owns the Flask app. A thread a request polls Redis; nothing else.
"""

import os
from typing import Any

import redis
from flask import Flask, request

from benchmarks.serving import old_pattern

app = Flask("old_web")
_db = redis.Redis.from_url(os.environ["BENCH_REDIS"])


@app.post("/predict")
def predict() -> dict[str, Any]:
    """One picture's answer."""
    return {"success": True, "predictions": old_pattern.ask(_db, request.files["image"].read())}
