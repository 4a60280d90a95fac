"""Each browser gets its language, and keeps the one that was chosen."""

import pytest
from playwright.sync_api import expect

from tests.browser.pages import SEVEN, Visit
from tests.browser.strokes import draw
from tests.support.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180, func_only=True)]


@pytest.mark.parametrize(
    ("locale", "lang", "heading", "answered"),
    [
        ("en-GB", "en", "What is in the picture?", "Answered in"),
        ("zh-CN", "zh-CN", "图片里是什么\uff1f", "用时"),
        ("fr-FR", "en", "What is in the picture?", "Answered in"),
    ],
)
def test_the_browser_s_language(
    visit: Visit, digits: Stack, locale: str, lang: str, heading: str, answered: str
) -> None:
    page = visit(digits.url, locale=locale)
    assert page.locator("html").get_attribute("lang") == lang
    assert page.locator("h1").inner_text() == heading
    page.set_input_files("#files", SEVEN)
    expect(page.locator(".timing h4")).to_contain_text(answered)


def test_the_other_language_is_a_link_away_and_goes_along(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url)
    page.get_by_role("link", name="简体中文").click()
    expect(page.locator("h1")).to_contain_text("图片里是什么")
    page.get_by_role("link", name="状态").click()
    expect(page.locator("h1")).to_have_text("状态")
    expect(page.locator(".badge").first).to_have_text("就绪")
    page.get_by_role("link", name="English").click()
    expect(page.locator("h1")).to_have_text("Status")


@pytest.mark.refusals
def test_chinese_throughout(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url, locale="zh-CN")
    draw(page, "7")
    expect(page.locator("#read")).to_contain_text("7 (")
    page.get_by_text("重复此请求").click()
    expect(page.locator(".piece button").first).to_have_text("复制")
    page.select_option("#model", "resnet50")
    expect(page.locator("#trouble")).to_contain_text("resnet50 加载失败。")
    assert page.locator("#trouble .words[lang=en]").inner_text().startswith("resnet50: the ImageNet weights")
    page.set_input_files("#files", SEVEN)
    expect(page.locator(".card .problem")).to_contain_text("只有服务的运维人员才能修复")
    page.locator("[lang=en], pre").evaluate_all("all => all.forEach(each => each.remove())")
    own = page.locator("main").inner_text()
    for english in ("Answers", "waiting", "batch", "Copy", "Draw", "Choose", "Model"):
        assert english not in own
