"""What can be said of the Compose files without an engine."""

import dataclasses
import re

import pytest

from settings import Settings
from tests.compose.project import compose_command, run
from tests.support import ROOT

FIXED_INSIDE = {"BIND", "PORT", "REDIS_URL", "REDIS_PASSWORD_FILE", "CACHE_DIR", "HEALTH_DIR"}
NOT_FOR_CONTAINERS = {"MODEL_SERVERS", "MODELS_DIR", "FILES_DIR"}
"""--scale makes model servers; the catalogue is mounted, and pictures to classify are not."""
OTHER_WEIGHTS = {"DENSENET121_WEIGHTS"}
"""RESNET50_WEIGHTS is a field of the settings; so has each other keras_application a variable."""


def test_every_setting_reaches_the_containers() -> None:
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    passed = set(re.findall(r"^ +(\w+): \$\{\1:-(?:photos10)?\}$", text, re.MULTILINE))
    settings = {field.name.upper() for field in dataclasses.fields(Settings)}
    assert passed == settings - FIXED_INSIDE - NOT_FOR_CONTAINERS | OTHER_WEIGHTS


@pytest.mark.compose
def test_the_gpu_is_an_override_of_the_same_services() -> None:
    files = ("-f", "docker-compose.yml", "-f", "docker-compose.gpu.yml")
    shown = run(*compose_command(), *files, "config")
    assert "driver: nvidia" in shown
    assert "TENSORFLOW: tensorflow[and-cuda]" in shown
    assert shown.count("\n  model_server:\n") == 1


@pytest.mark.compose
def test_monitoring_is_beside_the_same_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFANA_PASSWORD", "secret")
    monkeypatch.setenv("METRICS_PORT", "9100")
    files = ("-f", "docker-compose.yml", "-f", "deploy/monitoring/docker-compose.yml")
    shown = run(*compose_command(), *files, "config")
    for name in ("prometheus.yml", "alerts.yml", "grafana/provisioning", "grafana/dashboards"):
        assert f"{ROOT}/deploy/monitoring/{name}" in shown
        assert (ROOT / "deploy" / "monitoring" / name).exists()
    assert shown.count("\n  model_server:\n") == 1
