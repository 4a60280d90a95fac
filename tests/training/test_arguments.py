"""The command line of retraining: what it refuses, and that its page names its options."""

import re
import subprocess
import sys

import pytest

from tests.support import ROOT
from training.arguments import parser


@pytest.mark.parametrize(
    "words",
    [
        ["--name", "dogs"],
        ["folder"],
        ["folder", "--name", "Dogs"],
        ["folder", "--name", "../dogs"],
        ["folder", "--name", "dogs", "--fit", "ink"],
        ["folder", "--name", "dogs", "--size", "0"],
        ["folder", "--name", "dogs", "--fine-tune", "-1"],
        ["folder", "--name", "dogs", "--held-out", "0.5"],
        ["folder", "--name", "dogs", "--validation", "0"],
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(words)
    assert ended.value.code == 2


def test_the_page_names_every_option_and_no_other() -> None:
    page = (ROOT / "docs" / "training.md").read_text("utf-8")
    commands = "\n".join(re.findall(r"^.*training\.retrain.*$|^\| `--.*$", page, re.MULTILINE))
    named = set(re.findall(r"--[a-z][a-z-]+", commands))
    known = {option for action in parser()._actions for option in action.option_strings}
    assert named == {option for option in known if option.startswith("--")} - {"--help"}


@pytest.mark.slow
def test_the_options_need_no_tensorflow() -> None:
    code = "import sys, training.arguments; print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
