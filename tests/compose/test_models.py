"""Models under docker-compose: one's own without a build, a changed one, its weights, and the fallback."""

import shutil
from typing import Any

import httpx
import pytest

from tests.compose.project import DIGITS, Stack
from tests.support import http
from tests.support.waiting import eventually

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1500)]

NO_NETWORK = """
version: "3.8"
services:
  model_server:
    environment:
      HTTPS_PROXY: http://127.0.0.1:9
      https_proxy: http://127.0.0.1:9
"""
"""Nobody listens there: nothing is downloaded, on a machine with a network too."""


def _answer(stack: Stack, query: str = "") -> dict[str, Any]:
    """What the README's own curl gets; a failure while the web tier is on its way up."""
    try:
        response = http.post(f"{stack.url}/predict{query}", files={"image": DIGITS["7"]}, timeout=30)
    except httpx.HTTPError:
        return {"success": False}
    return dict(response.json())


def _label(stack: Stack, model: str) -> str:
    answer = _answer(stack, f"?model={model}")
    return str(answer["predictions"][0]["label"]) if answer["success"] else ""


def _weights(stack: Stack, model: str) -> str:
    """Where a model's weights come from, if it is ready."""
    try:
        models = {each["model"]: each for each in stack.get("/models").json().get("models", [])}
    except httpx.HTTPError:
        return ""
    return str(models[model]["weights"]) if models.get(model, {}).get("state") == "ready" else ""


def _up(stack: Stack, *files: str) -> None:
    """Bring it up with what is in `environment` now, without a build."""
    override = [word for file in ("docker-compose.yml", *files) for word in ("-f", file)]
    stack.compose(*override, "up", "-d", "--no-build")


def test_a_folder_of_one_s_own_is_served_without_a_build_and_its_change_too(stack: Stack) -> None:
    own = stack.folder / "models" / "my-digits"
    shutil.copytree(stack.folder / "models" / "digits", own)
    stack.environment["MODELS"] = "my-digits,resnet50"
    _up(stack)
    eventually(lambda: stack.answers("/readyz?model=my-digits"), within_s=120)
    assert _label(stack, "my-digits") == "7"
    labels = own / "labels.csv"
    labels.write_text(labels.read_text("utf-8").replace("7,7,7", "7,7,seven"), "utf-8")
    eventually(lambda: _label(stack, "my-digits") == "seven", within_s=60)


def test_the_weights_of_any_model_reach_its_container(stack: Stack) -> None:
    own = stack.folder / "models" / "my-net"
    shutil.copytree(stack.folder / "models" / "resnet50", own)
    toml = (own / "model.toml").read_text("utf-8")
    (own / "model.toml").write_text(toml.replace('"ResNet50"', '"MobileNet"'), "utf-8")  # converted sooner
    with (stack.folder / "deploy" / "weights.env").open("a") as file:
        file.write("MY_NET_WEIGHTS=random\n")
    stack.environment["MODELS"] = "my-net"
    _up(stack)
    eventually(lambda: _weights(stack, "my-net") == "random", within_s=180)


def test_without_a_network_the_fallback_answers(stack: Stack) -> None:
    (stack.folder / "no-network.yml").write_text(NO_NETWORK, "utf-8")
    stack.environment |= {"MODELS": "", "RESNET50_WEIGHTS": ""}
    _up(stack, "no-network.yml")
    eventually(lambda: _answer(stack).get("model") == "photos10", within_s=180)
    answer = _answer(stack)
    assert answer["success"]
    assert "photos10 answers for resnet50" in answer["notice"]
    assert "could not be downloaded" in answer["notice"]
