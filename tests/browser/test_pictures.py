"""Pictures come in by every way that there is, and go out as cards with their answers."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.pages import SEVEN, Visit, holding, until
from tests.support.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180, func_only=True)]


def first_label(page: Page) -> str:
    """The best label of the newest card."""
    return page.locator(".card .ranking .label").first.inner_text()


def answers(page: Page, count: int = 1) -> None:
    """Until so many cards have their answers."""
    expect(page.locator(".card[data-state=answered]")).to_have_count(count)


def test_a_picture_is_chosen_and_answered(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url)
    expect(page.locator("#model")).to_have_value("digits")  # the default has failed
    page.set_input_files("#files", SEVEN)
    answers(page)
    assert first_label(page) == "7"
    assert page.locator(".card h3").inner_text() == "digit-7.png"
    assert page.locator(".card img").evaluate("image => image.naturalWidth") == 300
    assert page.locator(".card .share").first.inner_text() == "> 99.9%"
    bars = page.locator(".card .bar").evaluate_all(
        "bars => bars.map(bar => parseFloat(getComputedStyle(bar).backgroundSize))"
    )
    assert bars[0] > 99
    assert max(bars[1:]) < 1


def test_the_time_is_split_and_the_batch_is_told(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url)
    with page.expect_response("**/predict?*") as told:
        page.set_input_files("#files", SEVEN)
    answers(page)
    said = told.value.json()
    timings = said["timings_ms"]
    shown = dict(zip(*(page.locator(f".times {tag}").all_inner_texts() for tag in ("dt", "dd")), strict=True))
    assert list(shown) == ["waiting", "batch", "model", "the rest"]
    for stage, ms in timings.items():
        number, unit = shown[stage].split()
        in_ms = float(number) * {"ms": 1, "s": 1000}[unit]
        assert in_ms == pytest.approx(ms, abs=0.51 if unit == "ms" else 5.1)
    assert page.locator(".timing h4").inner_text().startswith("Answered in ")
    widths = page.locator(".stages span").evaluate_all("all => all.map(each => parseFloat(each.style.width))")
    assert sum(widths) == pytest.approx(100, abs=0.1)
    assert widths[2] / widths[0] == pytest.approx(timings["model"] / timings["waiting"], rel=0.01)
    # Of other tests, too: they share the service.
    assert (
        f"in a batch of {said['batch_size']} ·" in page.locator(".card .hint", has_text="batch").inner_text()
    )


def test_several_at_once_keep_their_order(visit: Visit, digits: Stack, tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(10)]
    for name in names:
        (tmp_path / name).write_bytes(SEVEN.read_bytes())
    page = visit(digits.url)
    page.set_input_files("#files", SEVEN)
    page.set_input_files("#files", [tmp_path / name for name in names])
    answers(page, 11)
    assert page.locator(".card h3").all_inner_texts() == [*names, "digit-7.png"]
    page.get_by_role("button", name="Remove 3.png").click()
    expect(page.locator(".card")).to_have_count(10)
    page.get_by_role("button", name="Remove all").click()
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator("#answers")).to_be_hidden()


def test_a_picture_can_be_chosen_again(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url)
    page.set_input_files("#files", SEVEN)
    answers(page)
    # A browser tells of no change where the same file is chosen anew, unless the first was forgotten.
    assert page.locator("#files").evaluate("input => input.files.length") == 0


def test_many_go_out_a_few_at_a_time(visit: Visit, digits: Stack, tmp_path: Path) -> None:
    names = [tmp_path / f"{number}.png" for number in range(7)]
    for name in names:
        name.write_bytes(SEVEN.read_bytes())
    page = visit(digits.url)
    under_way = holding(page, "**/predict?*")
    page.set_input_files("#files", names)
    expect(page.locator(".card")).to_have_count(7)
    for gone in range(len(names)):
        at_once = min(4, len(names) - gone)
        until(page, lambda gone=gone, at_once=at_once: len(under_way) == gone + at_once)  # type: ignore[misc]
        under_way[gone].continue_()
    answers(page, len(names))


def test_a_removed_card_lets_go_of_its_picture(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url)
    page.set_input_files("#files", SEVEN)
    answers(page)
    page.evaluate("() => { window.revoked = []; URL.revokeObjectURL = address => revoked.push(address); }")
    address = page.locator(".card img").get_attribute("src")
    page.get_by_role("button", name="Remove digit-7.png").click()
    assert page.evaluate("revoked") == [address]


def test_a_picture_is_pasted(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url, permissions=["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async bytes => navigator.clipboard.write([new ClipboardItem({
            'image/png': new Blob([new Uint8Array(bytes)], {type: 'image/png'})})])""",
        list(SEVEN.read_bytes()),
    )
    page.keyboard.press("Control+v")
    answers(page)
    assert first_label(page) == "7"
    assert page.locator(".card h3").inner_text().startswith("pasted-")
    page.evaluate("navigator.clipboard.writeText('no picture')")
    page.keyboard.press("Control+v")
    expect(page.get_by_text("There is no picture in the clipboard.")).to_be_visible()


def test_a_picture_is_dropped_beside_the_target(visit: Visit, digits: Stack, tmp_path: Path) -> None:
    page = visit(digits.url)
    expect(page.locator("#draw")).to_be_visible()
    mouse = page.context.new_cdp_session(page)

    def drag(kind: str, *files: Path) -> None:
        dragged = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        mouse.send("Input.dispatchDragEvent", {"type": kind, "x": 60, "y": 90, "data": dragged})

    drag("dragEnter", SEVEN)
    drag("dragOver", SEVEN)
    expect(page.locator("#drop.over")).to_be_visible()
    drag("drop", SEVEN)
    answers(page)
    assert first_label(page) == "7"
    expect(page.locator("#drop.over")).to_have_count(0)
    for kind in ("dragEnter", "dragOver", "drop"):
        drag(kind, tmp_path)
    expect(page.get_by_text("What you dropped is not a file.")).to_be_visible()


def test_a_photograph_is_taken(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url, permissions=["camera"])
    page.get_by_role("button", name="Use the camera").click()
    expect(page.get_by_role("dialog", name="Camera")).to_be_visible()
    expect(page.locator("#view")).not_to_have_js_property("videoWidth", 0)  # its first frame
    page.get_by_role("button", name="Take a picture").evaluate(
        "button => { button.click(); button.click(); }"
    )
    answers(page)
    assert page.locator(".card h3").inner_text().startswith("photo-")
    assert page.locator(".card img").evaluate("image => image.naturalWidth") > 0
    assert page.locator("#view").evaluate("view => view.srcObject === null")


def test_the_camera_is_switched_on_once_and_off_again(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url, permissions=["camera"])
    page.evaluate(
        """() => {
            const devices = navigator.mediaDevices, real = devices.getUserMedia.bind(devices);
            window.streams = [];
            devices.getUserMedia = async wanted => {
                const stream = await real(wanted);
                streams.push(stream);
                return stream;
            };
        }"""
    )
    button = page.get_by_role("button", name="Use the camera")
    button.evaluate("button => { button.click(); button.click(); }")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    states = "streams.map(stream => stream.getTracks().map(track => track.readyState)).flat()"
    until(page, lambda: page.evaluate(states) == ["ended"])  # by an event that comes after it is hidden
    button.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.evaluate(states) == ["ended", "live"]


def test_nothing_is_taken_before_there_is_something_to_see(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url)
    page.evaluate("() => { navigator.mediaDevices.getUserMedia = async () => new MediaStream(); }")
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take a picture").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_role("button", name="Close").click()
    expect(page.locator(".card")).to_have_count(0)


def test_without_a_camera_the_page_says_so(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url)
    page.evaluate("() => { navigator.mediaDevices.getUserMedia = async () => { throw new Error('none'); }; }")
    for _ in range(2):
        page.get_by_role("button", name="Use the camera").click()
        expect(page.locator("#said.seen")).to_have_text("This page has no access to a camera.")
        expect(page.locator("#said.seen")).to_have_count(0)


def test_a_telephone_takes_a_photo_by_its_own_means(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url, width=390, has_touch=True, is_mobile=True)
    expect(page.get_by_text("Take a photo")).to_be_visible()
    expect(page.locator("#camera")).to_be_hidden()
    assert page.locator("#snap").get_attribute("capture") == "environment"
    page.set_input_files("#snap", SEVEN)
    answers(page)


def by_keyboard(page: Page) -> None:
    """Walk to the file input with the Tab key alone, and press it."""
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "files":
            break
    with page.expect_file_chooser() as opened:
        # Playwright does not wait until Chromium knows that the chooser is to be handed over: without a
        # question in between, 17 of 60 presses came before that, and the chooser was lost.
        expect(page.locator("#files")).to_be_focused()
        page.keyboard.press("Enter")
    opened.value.set_files(SEVEN)


def by_mouse(page: Page) -> None:
    """Press the button."""
    with page.expect_file_chooser() as opened:
        page.get_by_text("Choose pictures").click()
    opened.value.set_files(SEVEN)


@pytest.mark.parametrize("choose", [by_keyboard, by_mouse])
def test_the_button_opens_the_chooser(visit: Visit, digits: Stack, choose: Callable[[Page], None]) -> None:
    page = visit(digits.url)
    choose(page)
    answers(page)
    expect(page.locator("#said")).to_have_text("digit-7.png: 7 (> 99.9%)")


def test_without_scripts_it_is_a_form(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url, java_script_enabled=False)
    expect(page.locator("#about")).to_contain_text("10 classes · takes 28")
    expect(page.locator(".starting")).to_have_count(2)
    for each in page.locator(".starting").all():
        expect(each).to_be_hidden()
    said = page.locator("main").inner_text()
    for impossible in ("Drop", "paste", "camera", "draw", "Take a photo"):
        assert impossible not in said
    expect(page.locator("#drop")).to_have_css(
        "border-style", "solid"
    )  # it does not look like a place to drop
    expect(page.locator("noscript .hint")).to_contain_text("Choose pictures, then send them.")
    page.select_option("#model", "digits")
    page.set_input_files("#files", SEVEN)
    page.get_by_role("button", name="Send").click()
    page.wait_for_url("**/upload")
    expect(page.locator(".ranking .label").first).to_have_text("7")
    picture = page.get_by_role("img", name="The picture, with what digits found on it")
    assert picture.evaluate("img => img.naturalWidth") == 360
    # And the next one from there.
    page.set_input_files("#file", SEVEN)
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".card h3")).to_have_text("digits")
