"""The program run in this process against a server of the tests' own."""

import json
from pathlib import Path
from typing import Any

from loadtest.cli.main import main
from tests.loadtest.stub import StubServer, answer, prediction


def run(
    server: StubServer, folder: Path, *arguments: str, requests: int | None = 12
) -> tuple[int, dict[str, Any]]:
    """Return exit status and figures of a closed loop of one client, by default."""
    figures = folder / "figures.json"
    common = ["--url", server.url, "--json", str(figures)]
    if requests:
        common += ["--requests", str(requests)]
    if not {"--rate", "--concurrency"} & set(arguments):
        common += ["--concurrency", "1"]
    status = main([*common, *arguments])
    return status, json.loads(figures.read_text())


def counts(point: dict[str, Any]) -> dict[str, int]:
    return {kind: errors["count"] for kind, errors in point["errors"].items()}


def script_of_failures(number: int) -> dict[str, Any] | bytes | None:
    """Go wrong in each way once, then answer rightly."""
    error = {"success": False, "error": {"code": "overloaded", "message": "full"}, "status": 503}
    wrong = answer(2, predictions=[prediction("dog")])
    ways: list[Any] = [error, b"garbage", None, wrong, answer(0), answer(0)]
    return ways[number] if number < len(ways) else answer(number)
