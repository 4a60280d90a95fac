"""`python -m model_server`: which command runs, and what is refused before any does."""

import ast
import re
import subprocess
import sys

import pytest

from model_server.__main__ import main
from tests.support import ROOT

COMMANDS = ["serve", "check", "new", "quantise", "dead-letters", "health"]


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert all(f"\n    {name}" in told for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_describes_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m model_server {command}")


@pytest.mark.parametrize(
    "words", [["srve"], ["--chek"], ["serve", "now"], ["health", "--verbose"], ["check"], ["dead-letters"]]
)
def test_a_typo_is_refused_and_starts_nothing(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage: python -m model_server" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["serve"]])
def test_without_a_command_it_serves(words: list[str]) -> None:
    asked = [sys.executable, "-m", "model_server", *words, "--check"]
    environment = {"MODELS": "digits"}
    assert subprocess.run(asked, cwd=ROOT, env=environment, check=False).returncode == 0
    refused = subprocess.run(
        asked, cwd=ROOT, env={"MODELS": "nosuch"}, check=False, capture_output=True, text=True
    )
    assert refused.returncode == 78
    assert "nosuch" in refused.stderr


def test_a_health_check_loads_next_to_nothing() -> None:
    code = """
import sys
from model_server.__main__ import main
main(["health"])
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"numpy", "redis", "msgspec", "settings", "logging"} & set(loaded)


@pytest.mark.parametrize("folder", ["model_server", "web", "broker", "deploy"])
def test_commands_in_messages_can_be_copied(folder: str) -> None:
    """The project's own Python runs them: another has neither the packages nor those that they install."""
    bare = re.compile(r"(?<=[ :(])python -m |(?<!-m )pip install")
    for path in (ROOT / folder).rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
                assert not bare.search(node.value), f"{path}: {node.value}"
