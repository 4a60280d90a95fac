"""The web tier over a real Redis with a worker in this process, whose network tells dark from bright."""

from collections.abc import Callable
from dataclasses import dataclass

from flask import Flask
from flask.testing import FlaskClient

from model_server.serving.worker import Worker
from tests.support.fakes import FakeEngine


@dataclass
class Service:
    """A web tier and one worker, in this process."""

    app: Flask
    client: FlaskClient
    engine: FakeEngine
    worker: Worker
    start_worker: Callable[[], None]


def disconnect(app: Flask) -> None:
    """Close its connections to Redis, which a web process has until its end."""
    app.extensions["jobs"].producer._redis.close()
