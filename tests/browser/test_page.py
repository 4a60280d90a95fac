"""The page in a real Chromium: choose a picture, choose a model, read the answer."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.conftest import RedisServer
from tests.e2e.conftest import ROOT, Stack
from tests.fakes import eventually

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    """Headless Chromium with a profile of its own that looks nothing up by itself."""
    driver, binary = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or binary is None:
        pytest.skip("NOT RUN: Debian's chromium and chromium-driver are not installed")
    profile = tempfile.mkdtemp(prefix="bw-")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for option in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1280,900",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()
    shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture
def digits(own_redis: RedisServer, tmp_path: Path) -> Iterator[Stack]:
    """The service with digits, and a default model that fails to load."""
    stack = Stack(tmp_path, own_redis.url)
    home = tmp_path / "home"
    home.mkdir()
    proxy = "http://127.0.0.1:9"
    stack.environment |= {"MODELS": "resnet50,digits", "MODELS_DIR": str(ROOT / "models")}
    stack.environment |= {"HOME": str(home), "HTTPS_PROXY": proxy, "https_proxy": proxy}
    try:
        stack.start_web()
        stack.start("model_server", log="model_server")
        eventually(lambda: stack.answers("/readyz?model=digits"), within_s=60)
        eventually(lambda: "could not be downloaded" in stack.text("/"), within_s=60)
        yield stack
    finally:
        stack.stop()


def test_a_picture_is_chosen_and_answered(browser: webdriver.Chrome, digits: Stack) -> None:
    browser.get(digits.url)
    assert browser.title == "Batchwire"
    models = Select(browser.find_element(By.NAME, "model"))
    assert [option.text for option in models.options] == ["digits", "resnet50 (failed)"]
    assert "RESNET50_WEIGHTS=random" in browser.find_element(By.CLASS_NAME, "problem").text
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]

    models.select_by_value("digits")
    browser.find_element(By.NAME, "image").send_keys(str(ROOT / "docs" / "digit-7.png"))
    browser.find_element(By.TAG_NAME, "button").click()
    WebDriverWait(browser, 30).until(lambda page: page.current_url.endswith("/predict"))
    answer = json.loads(browser.find_element(By.TAG_NAME, "body").text)
    assert answer["predictions"][0]["label"] == "7"


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut_off(browser: webdriver.Chrome, digits: Stack, width: int, tmp_path: Path) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    browser.get(digits.url)
    browser.save_screenshot(str(tmp_path / f"page-{width}.png"))
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
