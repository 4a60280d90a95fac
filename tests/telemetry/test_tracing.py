"""What tracing costs while it is off: no process loads anything, and a span is no object of its own."""

import os
import socket
import subprocess
import sys

import pytest

from telemetry import tracing
from telemetry.tracing import NOT_RECORDED
from tests.support import ROOT


def test_while_it_is_off_every_span_is_the_same_one() -> None:
    assert not tracing.is_on()
    span = tracing.begin("x", f"00-{'1' * 32}-{'2' * 16}-01")
    assert span is NOT_RECORDED
    assert span.child("y") is span
    assert (span.traceparent, tracing.is_sampled(f"00-{'1' * 32}-{'2' * 16}-01")) == (None, False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "loaded"),
    [
        (["gunicorn", "--check-config", "-c", "web/gunicorn.conf.py"], "web.app"),
        (["web.rpc"], "web.rpc.server"),
        (["model_server", "serve", "--check"], "model_server.serving.pipeline"),
    ],
    ids=["web", "grpc", "model_server"],
)
def test_opentelemetry_is_not_loaded_by_a_process_without_traces(command: list[str], loaded: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # The process of gRPC loads all it needs, and finds its port in use.
        variables = {"REDIS_URL": "redis://127.0.0.1:9/0", "GRPC_PORT": str(taken.getsockname()[1])}
        ran = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", *command],
            cwd=ROOT,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
    modules = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}
    assert {loaded, "redis"} <= modules
    # What redis-py tries to load is listed; what that would load in turn is not.
    assert "opentelemetry.context" not in modules
