"""`python -m training`: which command runs, and what is refused before any does."""

import pytest

from training.__main__ import main


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert all(f"\n    {name}" in told for name in ("retrain", "digits", "photos10"))


@pytest.mark.parametrize("words", [[], ["retrian"], ["retrain", "--nmae", "x"], ["--bogus"]])
def test_a_typo_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


def test_the_words_reach_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["retrain", "--help"])
    assert "--fine-tune" in capsys.readouterr().out
