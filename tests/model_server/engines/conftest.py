"""The engines' tests on a processor of another kind: ONEDNN_MAX_CPU_ISA=AVX2 make test-fast."""

import os

import pytest

from model_server.engines.openvino import runtime


@pytest.fixture(autouse=True)
def capped_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under oneDNN's cap no 16-bit precision: OpenVINO asks the processor itself for these, not oneDNN."""
    if "ONEDNN_MAX_CPU_ISA" in os.environ:
        monkeypatch.setattr(runtime, "capabilities", lambda: frozenset({"FP32", "INT8"}))
