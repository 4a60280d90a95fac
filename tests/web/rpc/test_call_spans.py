"""The spans of a call of gRPC."""

from collections.abc import Iterator

import grpc
import pytest

from tests.support.collector import CLIENT, SAMPLED, TRACE, Collector, assert_in_order, collecting, exporting
from tests.support.fakes import MODEL
from tests.support.pictures import png
from tests.support.service import Service
from tests.support.waiting import eventually
from tests.web.rpc.client import RpcClient, encoded
from web.rpc.protos import open_inference_grpc_pb2 as pb

METHOD = "inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(autouse=True)
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector to which this process exports."""
    with collecting() as collector, exporting(collector.url, monkeypatch):
        yield collector


def test_a_call_is_one_trace_to_the_network(running: Service, rpc: RpcClient, collector: Collector) -> None:
    assert running
    metadata = [("traceparent", SAMPLED)]
    rpc.method("ModelInfer")(pb.ModelInferRequest(**encoded(png(0))), timeout=20, metadata=metadata)
    names = (METHOD, "picture", f"send {MODEL}", f"process {MODEL}", f"batch {MODEL}", f"model {MODEL}")
    chain = collector.each(TRACE, *names)
    assert chain[0].parent == CLIENT
    assert_in_order(chain)
    assert chain[0].attribute("rpc.method") == "ModelInfer"
    assert chain[0].attribute("rpc.grpc.status_code") == 0


def test_a_call_that_fails_says_so(rpc: RpcClient, collector: Collector) -> None:
    assert rpc.refused("ModelInfer", model_name="never").code() is grpc.StatusCode.UNAVAILABLE
    eventually(lambda: bool(collector.spans))
    (span,) = collector.spans
    assert (span.name, span.failed) == (METHOD, True)
    assert span.attribute("rpc.grpc.status_code") == grpc.StatusCode.UNAVAILABLE.value[0]
