"""Programs that others measure servers with, and curl, unmodified, against the service's own processes.

Needs the environment that `make test-protocols` makes; perf_analyzer needs a library of Debian's, too.
"""

import ctypes
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.protocols import digits
from tests.protocols.digits import DIGITS, MODEL, TOLERANCE
from tests.support import ROOT
from tests.support.stack import Stack

ENVIRONMENT = ROOT / "var" / "protocols"
PERF_ANALYZER = ENVIRONMENT / "perf_analyzer"
K6 = ENVIRONMENT / "bin" / "k6"
SCRIPT = ROOT / "tests" / "protocols" / "k6.js"

THRESHOLD_FAILED = 99
"""What k6 ends with then."""

pytestmark = [pytest.mark.protocols, pytest.mark.timeout(120)]


def _missing_for_perf_analyzer() -> str:
    """Why it can't be run here; empty: it can."""
    if not (PERF_ANALYZER / "bin" / "perf_analyzer").is_file():
        return "no var/protocols/perf_analyzer/bin/perf_analyzer: `make test-protocols` makes it"
    try:
        ctypes.CDLL("libb64.so.0d")
    except OSError:
        return "NOT RUN: perf_analyzer needs libb64 (Debian: apt install libb64-0d)"
    return ""


MISSING = _missing_for_perf_analyzer()
needs_perf_analyzer = pytest.mark.skipif(bool(MISSING), reason=MISSING)
needs_k6 = pytest.mark.skipif(not K6.is_file(), reason="no var/protocols: `make test-protocols` makes it")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="NOT RUN: curl is not installed")


def _perf_analyzer(*arguments: str) -> subprocess.CompletedProcess[str]:
    libraries = PERF_ANALYZER / "nvidia" / "cuda_runtime" / "lib"
    return subprocess.run(
        [PERF_ANALYZER / "bin" / "perf_analyzer", *arguments],
        env={**os.environ, "LD_LIBRARY_PATH": str(libraries)},
        capture_output=True,
        text=True,
        check=False,
    )


def _number(name: str, printed: str) -> float:
    """The value that perf_analyzer's report has of that name."""
    (value,) = re.findall(rf"^ *{name}: ([\d.]+)", printed, re.MULTILINE)
    return float(value)


protocols = pytest.mark.parametrize("protocol", ["http", "grpc"])
"""What perf_analyzer takes as -i."""


def _address(stack: Stack, protocol: str) -> str:
    port = {"http": stack.port, "grpc": stack.grpc_port}[protocol]
    return f"127.0.0.1:{port}"


@needs_perf_analyzer
@protocols
def test_perf_analyzer_measures_the_service(served: Stack, protocol: str) -> None:
    # The first three windows are alike enough: what is tested is that it measures, not how evenly.
    windows = ["--measurement-interval", "600", "--stability-percentage", "999", "--max-trials", "10"]
    done = _perf_analyzer("-m", MODEL, "-u", _address(served, protocol), "-i", protocol, "-b", "2", *windows)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert _number("Throughput", done.stdout) > 0
    # Two pictures a request. The service's count may be a third of a second old.
    assert _number("Inference count", done.stdout) > _number("Request count", done.stdout) > 0


@needs_perf_analyzer
@protocols
def test_perf_analyzer_fails_where_there_is_no_such_model(served: Stack, protocol: str) -> None:
    done = _perf_analyzer("-m", "other", "-u", _address(served, protocol), "-i", protocol)
    assert done.returncode != 0
    assert "Unknown model 'other'" in done.stderr


@needs_perf_analyzer
def test_perf_analyzer_measures_it_as_a_torchserve(served: Stack, tmp_path: Path) -> None:
    file, *_ = digits.write(tmp_path)
    asked = tmp_path / "asked.json"
    asked.write_text(json.dumps({"data": [{"TORCHSERVE_INPUT": [str(file)]}]}))
    kind = ["--service-kind", "torchserve", "--input-data", str(asked), "--request-count", "50"]
    done = _perf_analyzer("-m", MODEL, "-u", _address(served, "http"), *kind)
    # It complains about its own clock on stderr, whatever the server.
    assert done.returncode == 0, done.stderr
    assert _number("Request count", done.stdout) == 50
    assert _number("Throughput", done.stdout) > 0


def _k6(
    stack: Stack, folder: Path, predicted: NDArray[np.float64], *, model: str
) -> tuple[int, dict[str, Any]]:
    """The exit status of k6, and its figures."""
    files = digits.write(folder)
    pictures = [
        {"file": str(file), "label": str(value), "probability": row[value]}
        for file, value, row in zip(files, DIGITS, predicted, strict=True)
    ]
    figures = folder / "figures.json"
    told = {"URL": stack.url, "MODEL": model, "PICTURES": json.dumps(pictures)}
    options = ["--quiet", "--no-usage-report", "--address", "", "--summary-export", str(figures)]
    done = subprocess.run(
        [K6, "run", *options, SCRIPT],
        env={**os.environ, **told},
        capture_output=True,
        text=True,
        check=False,
    )
    assert figures.is_file(), done.stderr
    metrics: dict[str, Any] = json.loads(figures.read_text())["metrics"]
    return done.returncode, metrics


@needs_k6
def test_k6_finds_every_answer_right(served: Stack, predicted: NDArray[np.float64], tmp_path: Path) -> None:
    status, metrics = _k6(served, tmp_path, predicted, model=MODEL)
    assert (status, metrics["http_req_failed"]["value"], metrics["checks"]["fails"]) == (0, 0, 0)
    assert metrics["http_reqs"]["count"] == 80
    assert metrics["checks"]["passes"] == 240


@needs_k6
def test_k6_ends_in_failure_where_requests_fail(
    served: Stack, predicted: NDArray[np.float64], tmp_path: Path
) -> None:
    status, metrics = _k6(served, tmp_path, predicted, model="other")
    assert (status, metrics["http_req_failed"]["value"]) == (THRESHOLD_FAILED, 1)
    assert metrics["checks"]["passes"] == 0


@needs_curl
@pytest.mark.parametrize("way", [["-T", "{file}"], ["-X", "POST", "-T", "{file}"], ["-F", "data=@{file}"]])
def test_curl_as_torchserve_s_documents_have_it(
    served: Stack, predicted: NDArray[np.float64], tmp_path: Path, way: list[str]
) -> None:
    for file, row in zip(digits.write(tmp_path), predicted, strict=True):
        words = [each.format(file=file) for each in way]
        printed = subprocess.run(
            ["curl", "-sS", "--fail", *words, f"{served.url}/predictions/{MODEL}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        answer = json.loads(printed)
        best = [int(at) for at in np.argsort(-row)[:5]]
        assert [int(label) for label in answer] == best
        assert np.abs(np.array([*answer.values()]) - row[best]).max() <= TOLERANCE
