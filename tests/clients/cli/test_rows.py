"""The line that people read for each task's answer."""

import pytest

from clients.answers import Answer, ErrorDetail, Prediction, RawOutput
from clients.cli.rows import row, text

CAT = Prediction(label="cat", class_id="1", probability=0.8646)
DOG = Prediction(label="dog", class_id="2", probability=0.1)


def answer(**fields: object) -> Answer:
    return Answer(success=True, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (answer(predictions=(CAT, DOG)), "cat 0.86 | dog 0.10"),
        (answer(predictions=(CAT,) * 7), "cat 0.86 | " * 5 + "and 2 more"),
        (answer(), "nothing found"),
        (answer(values={"price": 1.23456, "age": 7.0}), "price 1.235, age 7"),
        (answer(embedding=(0.5,) * 512), "a vector of 512 numbers"),
        (answer(image=b"\x89PNG"), "a PNG of 4 bytes"),
        (answer(outputs={"x": RawOutput(shape=(1, 2), data=(0, 0))}), "x 1x2"),
        (answer(result={"plate": "HH é"}), '{"plate": "HH é"}'),
        (answer(steps={"objects": answer(predictions=(CAT,))}), "objects: cat 0.86"),
        (
            answer(steps={"a": Answer(success=False, error=ErrorDetail(code="no_worker", message="Away."))}),
            "a: failed: Away.",
        ),
    ],
)
def test_each_task_has_its_words(said: Answer, words: str) -> None:
    assert text(said) == words


def test_a_box_and_what_later_steps_say_of_it_stand_beside_its_label() -> None:
    breed = answer(predictions=(DOG,))
    boxed = Prediction(
        label="dog", class_id="16", probability=0.96, box=(113, 188, 273, 349), steps={"b": breed}
    )
    assert text(answer(predictions=(boxed,))) == "dog 0.96 at 113,188,273,349 [b: dog 0.10]"


def test_a_row_has_a_column_for_names_and_the_notice_and_can_not_steer_a_terminal() -> None:
    line = row("a\x1b[31m.jpg", 12, answer(predictions=(CAT,), notice="for\nanother"))
    assert line == "a\ufffd[31m.jpg    cat 0.86  (for\ufffdanother)"
