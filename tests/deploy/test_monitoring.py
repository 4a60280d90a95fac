"""Prometheus' files and Grafana's board: the alerts fire when they should, and no name is made up."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT

FOLDER = ROOT / "deploy" / "monitoring"
BOARD = FOLDER / "grafana" / "dashboards" / "batchwire.json"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt install prometheus)"
)


def _promtool(*arguments: str) -> None:
    done = subprocess.run(
        ["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@needs_promtool
def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    _promtool("check", "config", "prometheus.yml")
    _promtool("test", "rules", "alerts_test.yml")


@pytest.mark.slow
@needs_promtool
def test_a_rule_that_is_wrong_would_be_found(tmp_path: Path) -> None:
    for name in ("alerts.yml", "alerts_test.yml"):
        shutil.copy(FOLDER / name, tmp_path)
    rules = (tmp_path / "alerts.yml").read_text("utf-8")
    (tmp_path / "alerts.yml").write_text(rules.replace("batchwire_redis_up == 0", "batchwire_redis_up == 1"))
    done = subprocess.run(["promtool", "test", "rules", "alerts_test.yml"], cwd=tmp_path, check=False)
    assert done.returncode != 0


def test_every_alert_has_a_test() -> None:
    alerts = set(re.findall(r"- alert: (\w+)", (FOLDER / "alerts.yml").read_text("utf-8")))
    tested = (FOLDER / "alerts_test.yml").read_text("utf-8")
    fired = set(re.findall(r"alertname: (\w+)\n        exp_alerts", tested))
    assert fired == alerts
    assert set(re.findall(r"eval_time: 15m, alertname: (\w+)", tested)) == alerts  # while all is well


@pytest.mark.parametrize(
    "file", [FOLDER / "alerts.yml", FOLDER / "alerts_test.yml", BOARD], ids=lambda f: f.name
)
def test_every_metric_is_on_the_page_on_metrics(file: Path) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    listed = set(re.findall(r"^\| `(batchwire_\w+)`", page, re.MULTILINE))
    named = set(re.findall(r"\bbatchwire_\w+", file.read_text("utf-8")))
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in named} <= listed


def test_the_board_is_of_its_data_source_and_each_panel_asks_something() -> None:
    board = json.loads(BOARD.read_text("utf-8"))
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len(panels) == 12
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in panels:
        assert panel["datasource"]["uid"] == "batchwire"
        assert panel["description"]
        assert all(target["expr"] and target["legendFormat"] for target in panel["targets"])


@needs_promtool
def test_every_question_of_the_board_is_promql(tmp_path: Path) -> None:
    board = json.loads(BOARD.read_text("utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    assert len(asked) > 12
    questions = [each.replace("$__rate_interval", "1m").replace("$model", "m") for each in asked]
    rules = [{"record": f"question:{number}", "expr": each} for number, each in enumerate(questions)]
    file = tmp_path / "questions.yml"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "board", "rules": rules}]}))
    _promtool("check", "rules", str(file))
