"""The client's types as its callers have them: `mypy --strict` takes right programs, and finds wrong ones."""

import subprocess
import sys

import pytest

from tests.support import ROOT
from tests.test_docs import CLIENTS, told

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

ASYNCHRONOUS = """
import asyncio
from pathlib import Path
from clients import AsyncClient, BatchwireError

async def label(path: Path) -> str:
    async with AsyncClient(retry_s=5) as client:
        job = await client.submit(path)
        answer = await job.result()
        async for reply in client.predict_many([path, b"", open("a.png", "rb")]):
            error: BatchwireError | OSError | None = reply.error
        return answer.best.label if answer.best else ""

asyncio.run(label(Path("a.png")))
"""

WRONG = {
    'Client().predict("a.png").predictions[0].labl': 'has no attribute "labl"',
    "Client().predict(7)": "incompatible type",
    'Client().predict("a.png", "digits")': "Too many positional arguments",
    'Client().predict("a.png").best.label': 'Item "None"',
    'AsyncClient().predict("a.png").model': "has no attribute",
}


def complaints(program: str) -> str:
    """What mypy says of a program; empty if it is content."""
    words = [sys.executable, "-m", "mypy", "--strict", "-c", program]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_the_programs_of_the_page_and_of_asyncio_are_right() -> None:
    documented = [block for block, _ in told("python", CLIENTS) if "from clients import" in block]
    assert len(documented) == 1
    for program in (*documented, ASYNCHRONOUS):
        assert complaints(program) == ""


def test_wrong_programs_are_found() -> None:
    program = "\n".join(["from clients import AsyncClient, Client", *WRONG])
    said = complaints(program).splitlines()
    for number, reason in enumerate(WRONG.values(), 2):
        assert any(f":{number}: error" in line and reason in line for line in said), (reason, said)
