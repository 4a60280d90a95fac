"""The command line: options may stand before, between and after the pictures."""

import pytest

from clients.cli.arguments import parse


@pytest.mark.parametrize("words", ["a.jpg --top 3 b.jpg", "--top 3 a.jpg b.jpg", "a.jpg b.jpg --top 3"])
def test_options_may_stand_anywhere(words: str) -> None:
    options = parse(words.split())
    assert (options.paths, options.top) == (("a.jpg", "b.jpg"), 3)


def test_after_two_dashes_there_are_no_options() -> None:
    assert parse(["--top", "3", "--", "-a.jpg", "b.jpg"]).paths == ("-a.jpg", "b.jpg")
