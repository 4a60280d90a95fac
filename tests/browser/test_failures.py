"""What goes wrong is said, with the reason and a way out; and the page goes on."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.pages import SEVEN, Visit, digits_stack
from tests.support import ROOT
from tests.support.redis_server import RedisServer, running_redis
from tests.support.stack import START_S, Stack, shade
from tests.support.waiting import eventually
from web.pages.reasons import shorten

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180, func_only=True), pytest.mark.refusals]


ONLY_THE_OPERATOR = "Only the operator of this service can fix that; choose another model."

REASONS = (
    "",
    "no weights",
    "x: Keras can't load n.keras: File not found: filepath=n.keras. Please ensure it.",
    "x: https://example.org/a/b/c.h5 and models/x/n.onnx are no paths of a server. It has 1.5 of them.",
    f"{'long ' * 60}. End",
)

BROKEN = """task = "classification"
labels = "labels.txt"
top = 1
[source]
kind = "onnx"
file = "net.onnx"
[input]
width = 8
height = 8
channels = 3
fit = "stretch"
normalise = "unit"
"""


@pytest.fixture(scope="module")
def falling_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A service where digits falls in for the default, whose file is none of a network."""
    folder = tmp_path_factory.mktemp("falling-in")
    shutil.copytree(ROOT / "models" / "digits", folder / "models" / "digits")
    (folder / "models" / "broken").mkdir()
    for name, content in (("model.toml", BROKEN), ("labels.txt", "a\nb\n"), ("net.onnx", "no network")):
        (folder / "models" / "broken" / name).write_text(content)
    with running_redis() as redis:
        made = digits_stack(folder, redis, MODELS="broken,digits", FALLBACK_MODEL="digits")
        made.environment["MODELS_DIR"] = str(folder / "models")
        try:
            made.start_web()
            made.start("model_server", log="model_server")
            eventually(lambda: made.answers("/readyz?model=digits"), within_s=150)
            eventually(lambda: '"default_answered_by":"digits"' in made.text("/models"), within_s=30)
            yield made
        finally:
            made.stop()


def failed(page: Page, code: str) -> str:
    """The text of the first card that failed with this code."""
    card = page.locator(f".card[data-code={code}]").first
    expect(card.locator(".problem")).to_be_visible()
    # Asking again is offered for what may pass: what is wrong with a file stays wrong.
    is_final = code in ("invalid_image", "unsupported_format", "too_large")
    expect(card.get_by_role("button", name=re.compile("Try .* again"))).to_have_count(0 if is_final else 1)
    return card.locator(".problem").inner_text()


def test_a_failed_model_says_why(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url)
    assert page.locator("#model option").all_inner_texts() == ["digits", "resnet50 (failed)"]
    expect(page.locator("#trouble")).to_be_empty()
    page.select_option("#model", "resnet50")
    expect(page.locator("#trouble .problem")).to_contain_text("resnet50 could not be loaded.")
    expect(page.locator("#trouble")).to_contain_text(ONLY_THE_OPERATOR)
    ways_out = page.locator("#trouble details p")
    expect(ways_out).to_contain_text("RESNET50_WEIGHTS=random")
    expect(ways_out).to_be_hidden()
    page.get_by_text("Full reason").click()
    with page.expect_response("**/models"):
        pass
    expect(ways_out).to_be_visible()  # and it stays open
    page.set_input_files("#files", SEVEN)
    # In the card once more that it failed, but not why: a dozen pictures would say it a dozen times. Nor when
    # to try again, for waiting mends nothing.
    said = failed(page, "model_unavailable")
    assert said == f"resnet50 could not be loaded. {ONLY_THE_OPERATOR}"
    page.select_option("#model", "digits")
    page.get_by_role("button", name="Try digit-7.png again").click()
    expect(page.locator(".card[data-state=answered]")).to_have_count(1)


def test_a_reason_is_shortened_alike_by_the_page_and_its_script(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url)
    module = page.locator("script[src]").first.get_attribute("src") or ""
    address = module.replace("page.js", "reason.js")
    said = page.evaluate(
        """async ([address, reasons]) => {
            const { shorten } = await import(address);
            return reasons.map((reason) => shorten(reason)).map(({ short, whole }) => [short, whole]);
        }""",
        [address, REASONS],
    )
    assert [tuple(each) for each in said] == [shorten(reason) for reason in REASONS]
    assert shorten(REASONS[2]).short == "x: Keras can't load n.keras: File not found: filepath=n.keras."
    assert shorten(REASONS[3]).whole == REASONS[3]


def test_a_choice_stays_and_a_list_that_is_open_is_left_alone(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url)
    page.select_option("#model", "resnet50")
    page.evaluate("document.querySelectorAll('option').forEach(option => option.isTheSame = true)")
    for _ in range(2):
        with page.expect_response("**/models"):
            pass
    expect(page.locator("#model")).to_have_value("resnet50")
    assert page.locator("option").evaluate_all("all => all.every(option => option.isTheSame)")


def test_an_oversized_file_is_not_even_sent(visit: Visit, digits: Stack, tmp_path: Path) -> None:
    (tmp_path / "big.png").write_bytes(bytes(3_000_000))
    page = visit(digits.url)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method))
    page.set_input_files("#files", tmp_path / "big.png")
    assert "The picture is too large. A request may have at most 1 MB." in failed(page, "too_large")
    assert "POST" not in sent


def test_too_many_pixels_are_refused_by_the_service(visit: Visit, digits: Stack, tmp_path: Path) -> None:
    Image.new("L", (1000, 900)).save(tmp_path / "wide.png")
    page = visit(digits.url)
    page.set_input_files("#files", tmp_path / "wide.png")
    said = failed(page, "too_large")
    assert "The picture is too large." in said
    assert "400,000" in said.replace("400000", "400,000")


@pytest.mark.parametrize(
    ("name", "content", "code", "said"),
    [
        ("notes.txt", b"not a picture", "invalid_image", "This is not a picture, or the file is broken."),
        ("a.jxl", b"\xff\x0a" + bytes(30), "unsupported_format", "Save the picture as JPEG"),
        (
            "cut.png",
            SEVEN.read_bytes()[:2000],
            "invalid_image",
            "This is not a picture, or the file is broken.",
        ),
    ],
)
def test_what_is_no_picture(
    visit: Visit, digits: Stack, tmp_path: Path, name: str, content: bytes, code: str, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    page = visit(digits.url)
    page.set_input_files("#files", tmp_path / name)
    assert said in failed(page, code)
    if name != "cut.png":
        expect(page.get_by_text("Your browser can't show this format.")).to_be_visible()


def test_an_overloaded_service_says_when_to_come_back(visit: Visit, stack: Stack, tmp_path: Path) -> None:
    stack.environment["QUEUE_LIMIT"] = "1"
    stack.stop()
    stack.start_web()
    stack.start_model_server(delay_s=4)
    names = [tmp_path / f"{number}.png" for number in range(8)]
    for number, path in enumerate(names):
        path.write_bytes(shade(number))
    page = visit(stack.url)
    page.set_input_files("#files", names)
    said = failed(page, "overloaded")
    assert "The service is busy." in said
    assert "Try again in " in said
    expect(page.locator(".card[data-state=waiting]")).to_have_count(0, timeout=30_000)
    before = page.locator(".card[data-state=answered]").count()
    assert before >= 1
    page.locator(".card[data-code=overloaded] button", has_text="Try again").first.click()
    expect(page.locator(".card[data-state=answered]")).to_have_count(before + 1)


def test_a_service_that_is_gone_and_comes_back(
    visit: Visit, stack: Stack, own_redis: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(shade(7))
    stack.start_model_server()
    page = visit(stack.url)
    problem = page.locator("#problem")
    expect(problem).to_be_hidden()
    own_redis.stop(kill=True)
    expect(problem).to_contain_text("The service can't reach its queue.")
    expect(problem).to_be_visible()
    own_redis.start()
    expect(problem).to_be_hidden(timeout=30_000)
    stack.stop()
    expect(problem).to_contain_text("The service can't be reached.")
    page.set_input_files("#files", tmp_path / "a.png")
    assert "Is it running, and is this device online?" in failed(page, "unreachable")
    stack.start_web()
    stack.start_model_server()
    expect(problem).to_be_hidden()
    page.get_by_role("button", name="Try a.png again").click()
    expect(page.locator(".card[data-state=answered]")).to_have_count(1)


def test_a_model_that_loads_says_so_and_then_answers(visit: Visit, stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(shade(7))
    stack.start("tests.e2e.shades_server", str(stack.executions), "0", "held", log="model_server")
    eventually(lambda: '"loading"' in stack.text("/models"), within_s=START_S)
    page = visit(stack.url)
    loading = "shades is being loaded. Send a picture: it waits."
    expect(page.locator("#trouble .notice")).to_contain_text(loading)
    expect(page.locator("#model option")).to_have_text("shades (loading)")
    expect(page.locator("#draw")).to_be_hidden()  # nobody here reads drawings
    page.set_input_files("#files", tmp_path / "a.png")
    expect(page.get_by_text("Waiting for shades …")).to_be_visible()
    stack.executions.with_suffix(".go").touch()
    expect(page.locator(".card[data-state=answered]")).to_have_count(1)
    expect(page.locator("#trouble")).to_be_empty()


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_who_falls_in_for_a_default_that_failed_says_so(visit: Visit, falling_in: Stack, locale: str) -> None:
    page = visit(falling_in.url, locale=locale)
    expect(page.locator("#model")).to_have_value("digits")
    english = "digits answers instead of broken, which could not be loaded."
    said = english if locale == "en-US" else "broken 加载失败\uff0c由 digits 代为应答。"
    trouble = page.locator("#trouble .notice")
    expect(trouble).to_contain_text(said)
    expect(trouble).to_contain_text("broken: OpenVINO can't read net.onnx")
    page.set_input_files("#files", SEVEN)
    notice = page.locator(".card .notice")
    expect(notice).to_contain_text(said)
    why = notice.locator("[lang=en]")
    expect(why).to_contain_text("digits answers for broken, which failed to load: OpenVINO")
    expect(why).to_be_hidden()  # until it is asked for
    # A choice is no makeshift: what was said of one stays with its answer, and nowhere else.
    page.select_option("#model", "broken")
    expect(page.locator("#trouble .problem")).to_be_visible()
    expect(trouble).to_have_count(0)
    page.select_option("#model", "digits")
    expect(page.locator("#trouble")).to_be_empty()
    page.set_input_files("#files", SEVEN)
    expect(page.locator(".card[data-state=answered]")).to_have_count(2)
    expect(notice).to_have_count(1)
    with page.expect_response("**/models"):
        pass
    expect(page.locator("#trouble")).to_be_empty()


def test_a_notice_in_an_answer_is_shown(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url)
    said = {
        "success": True,
        "model": "digits",
        "predictions": [{"label": "<i>", "class_id": "7", "probability": 0.5}],
        "notice": "digits answers for resnet50 <b>",
        "batch_size": 3,
        "timings_ms": {"waiting": 1, "batch": 1, "model": 1},
    }
    page.route("**/predict?*", lambda route: route.fulfill(body=json.dumps(said)))
    page.set_input_files("#files", SEVEN)
    expect(page.locator(".card .notice")).to_have_text("digits answers for resnet50 <b>")
    expect(page.locator(".card .ranking .label")).to_have_text("<i>")
    expect(page.get_by_text("Ran in a batch of 3 pictures")).to_be_visible()


@pytest.mark.parametrize(
    ("status", "body"), [(502, "<h1>Bad Gateway</h1>"), (200, "<h1>Please log in</h1>"), (200, "{}")]
)
def test_an_answer_of_something_else_in_between(visit: Visit, digits: Stack, status: int, body: str) -> None:
    page = visit(digits.url)
    page.route("**/predict?*", lambda route: route.fulfill(status=status, body=body))
    page.set_input_files("#files", SEVEN)
    said = failed(page, "unexpected")
    assert "The answer can't be understood." in said
    assert f"HTTP {status}" in said
