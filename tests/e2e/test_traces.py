"""Traces and logs of real processes: one trace through all of them, though one is killed; SIGTERM flushes."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import http
from tests.support.collector import CLIENT, SAMPLED, TRACE, assert_in_order, collecting
from tests.support.redis_server import RedisServer
from tests.support.stack import MODEL, SHADE, Stack, shade
from tests.support.waiting import eventually
from tests.web.rpc.client import RpcClient, encoded
from web.rpc.protos import open_inference_grpc_pb2 as pb

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

BY_RPC = "1" * 32
STEPS = ("picture", f"send {MODEL}", f"process {MODEL}", f"batch {MODEL}", f"model {MODEL}")


def lines(stack: Stack, log: str) -> list[dict[str, object]]:
    """A process' log, each line of which must be an object."""
    return [json.loads(line) for line in (stack.folder / f"{log}.log").read_text("utf-8").splitlines()]


def test_a_picture_of_a_killed_model_server_is_one_trace_and_a_stop_sends_all(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    stack = Stack(tmp_path, own_redis.url)
    head = {"traceparent": SAMPLED, "X-Request-ID": "killed"}
    with collecting() as collector, ThreadPoolExecutor(1) as clients:
        stack.environment |= {"LOG_FORMAT": "json", "LOG_LEVEL": "debug", "ACCESS_LOG": "on"}
        stack.environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": ""}
        stack.environment["OTEL_BSP_SCHEDULE_DELAY"] = "600000"  # so nothing is sent but at the end
        try:
            web = stack.start_web()
            rpc = stack.start_grpc()
            survivor = stack.start_model_server()
            victim = stack.start_model_server(delay_s=60)
            survivor.send_signal(signal.SIGSTOP)
            picture = {"image": ("x.png", shade(SHADE))}
            answer = clients.submit(
                http.post, f"{stack.url}/predict", files=picture, headers=head, timeout=60
            )
            eventually(lambda: stack.executed() == [SHADE])
            victim.kill()
            survivor.send_signal(signal.SIGCONT)
            assert answer.result().status_code == 200
            with RpcClient(stack.grpc_port) as client:
                request = pb.ModelInferRequest(**encoded(shade(SHADE), model_name=MODEL))
                metadata = [("traceparent", SAMPLED.replace(TRACE, BY_RPC)), ("x-request-id", "called")]
                client.method("ModelInfer")(request, timeout=30, metadata=metadata)
            assert collector.spans == []
            for process in (web, rpc, survivor):
                process.send_signal(signal.SIGTERM)
                process.wait(20)
        finally:
            stack.stop()
        recovered = collector.each(TRACE, "POST /predict", *STEPS)
        called = collector.each(BY_RPC, "inference.GRPCInferenceService/ModelInfer", *STEPS)
    for chain, service in ((recovered, "batchwire-web"), (called, "batchwire-grpc")):
        assert chain[0].parent == CLIENT
        assert_in_order(chain)
        assert [span.service for span in chain] == [service] * 3 + ["batchwire-model-server"] * 3
        assert chain[4].links == {chain[3].id}
    assert (recovered[3].events, called[3].events) == (["recovered from a lost worker"], [])
    for log, request_id, trace in (("web", "killed", TRACE), ("grpc", "called", BY_RPC)):
        of_request = [line for line in lines(stack, log) if line.get("request_id") == request_id]
        assert {line.get("trace_id") for line in of_request} == {trace}
        (told,) = (line for line in of_request if line["logger"] == "web.access_log")
        assert (told["model"], told["pictures"]) == (MODEL, 1)
    assert {line["logger"] for line in lines(stack, "web")} >= {"gunicorn.error", "web.jobs"}
    assert lines(stack, "model_server")
