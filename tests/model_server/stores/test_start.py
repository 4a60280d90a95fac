"""A start with a store: the package that is missing, and code that comes from elsewhere."""

import pytest

from model_server.commands import serve
from model_server.stores import object_store
from settings import EXIT_CONFIG, Settings
from tests.support import ROOT


@pytest.mark.parametrize("scheme", ["s3", "gs", "hf"])
def test_a_missing_package_is_named_before_anything_is_started(
    scheme: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = object_store.PACKAGES[scheme]
    monkeypatch.setenv("MODELS_DIR", f"{scheme}://owner/place")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert serve.main(["--check"]) == EXIT_CONFIG
    requirements = f"model_server/requirements-{scheme}.txt"
    assert capsys.readouterr().err.strip() == (
        f"MODELS_DIR={scheme}://... needs the Python package {package!r}, which is not installed. "
        f"Install it: .venv/bin/python -m pip install -r {requirements}"
    )
    assert (ROOT / requirements).is_file()


def test_a_check_looks_into_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELS_DIR", "http://127.0.0.1:9/nobody/there.zip")
    assert serve.main(["--check"]) == 0


def test_the_versions_that_are_installed_are_those_that_are_tested() -> None:
    def pins(path: str) -> set[str]:
        return {line for line in (ROOT / path).read_text("utf-8").splitlines() if "==" in line}

    tested = pins("tests/stores/requirements.txt") | pins("model_server/requirements-s3.txt")
    for scheme, package in object_store.PACKAGES.items():
        installed = pins(f"model_server/requirements-{scheme}.txt")
        assert {pin for pin in installed if pin.startswith((f"{package}==", "fsspec=="))} <= tested


@pytest.mark.parametrize(
    ("models_dir", "hooks", "store_hooks", "are_on"),
    [
        ("models", "on", "off", True),
        ("s3://bucket", "on", "off", False),
        ("s3://bucket", "on", "on", True),
        ("s3://bucket", "off", "on", False),
    ],
)
def test_code_from_a_store_has_to_be_allowed_by_itself(
    models_dir: str, hooks: str, store_hooks: str, are_on: bool
) -> None:
    settings = Settings(models_dir=models_dir, hooks=hooks, store_hooks=store_hooks)
    assert serve._hook_options(settings).are_on is are_on
