"""SECURITY.md's threats: each row names tests that are there, and each kind of adversary has rows."""

import ast
import re

import pytest

from tests.support import ROOT

ADVERSARIES = {
    "client without a key",
    "client with a key",
    "another site's page in a browser",
    "receiver of a webhook",
    "another user of the host",
    "Redis user of the web tier",
    "Redis user of a model server",
    "a model folder's author",
    "the network between",
}


def _rows() -> list[list[str]]:
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    lines = text.partition("\n## The threat model\n")[2].splitlines()
    table = [line for line in lines if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[1:]]


def test_every_adversary_has_rows() -> None:
    assert {row[0] for row in _rows()} >= ADVERSARIES


@pytest.mark.parametrize("row", _rows(), ids=lambda row: f"{row[0]}: {row[1]}")
def test_each_threat_is_held_by_something_that_a_test_shows(row: list[str]) -> None:
    _, _, holds, shown = row
    assert holds
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", shown)
    assert named
    assert shown == ", ".join(f"`{path}::{test}`" for path, test in named)
    for path, test in named:
        tree = ast.parse((ROOT / path).read_text("utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
