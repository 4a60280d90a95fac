"""`python -m benchmarks.gpu`: what it refuses, what it starts, and what it makes of the figures."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import gpu
from benchmarks.gpu import CONTESTANTS, EngineContestant, GpuCampaign
from benchmarks.serving.contenders import Place
from benchmarks.serving.load import Point
from model_server.catalogue.model_spec import read_model
from model_server.engines import choice
from settings import Settings

BARE = {"1": [100.0, 50.0], "8": [400.0, 500.0], "64": [300.0, 600.0]}


def point(per_s: float) -> Point:
    return Point(per_s, 10.0, 20.0, 100, 0, {"web": 2.0, "model server": 1.0, "Redis": 1.0, "client": 9.0})


def asked(device: str = "cpu", **others: Any) -> argparse.Namespace:  # noqa: ANN401
    usual = {"rounds": 1, "seconds": 1.0, "clients": (8,), "batches": (1, 64), "only": None}
    return argparse.Namespace(device=device, **(usual | others))


@pytest.mark.slow
def test_without_a_gpu_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choice, "has_nvidia_gpu", lambda: False)
    assert gpu.main([]) == gpu.IMPOSSIBLE == 2
    shown = capsys.readouterr().out
    assert "an NVIDIA GPU with its driver" in shown
    assert "--device cpu" in shown


def test_a_gpu_that_no_engine_can_use_is_not_measured_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choice, "has_nvidia_gpu", lambda: True)
    monkeypatch.setattr(
        gpu, "missing", lambda *_, **__: dict.fromkeys(("tensorflow", "jax", "onnxruntime"), "x")
    )
    assert gpu.main([]) == gpu.IMPOSSIBLE
    assert "- x, for onnxruntime" in capsys.readouterr().out


def test_what_each_engine_lacks() -> None:
    assert list(gpu.missing([], has_gpu=False)) == ["machine", "tensorflow", "jax", "onnxruntime"]
    there = ["tensorflow", "jax_cuda12_plugin", "onnxruntime_gpu"]
    assert gpu.missing(there, has_gpu=True) == {}
    assert list(gpu.missing([*there, "tensorflow-cpu"], has_gpu=True)) == ["tensorflow"]
    assert list(gpu.missing([*there[:2], "onnxruntime"], has_gpu=True)) == ["onnxruntime"]


def test_an_engine_that_lacks_something_or_fails_is_left_out_with_the_reason() -> None:
    campaign = GpuCampaign(asked("gpu"), Console(quiet=True))
    campaign.without({"jax": "the package jax[cuda12]"})
    assert "jax lacks the package jax[cuda12]" in campaign.found["left_out"]["jax fp16"]
    only = GpuCampaign(asked("gpu", only=["onnxruntime tensorrt"]), Console(quiet=True))
    assert sorted(only._contestants) == ["onnxruntime tensorrt fp16", "onnxruntime tensorrt fp32"]


@pytest.mark.parametrize("device", CONTESTANTS)
def test_the_service_runs_what_was_measured_alone(tmp_path: Path, device: str) -> None:
    for number, each in enumerate(CONTESTANTS[device]):
        folder = tmp_path / str(number)
        folder.mkdir()
        place = Place(folder, (5001,), {}, folder, each.engine)
        redis, model, web = gpu.programs(each, place, asked(device))
        assert [redis.kind, model.kind, web.kind] == ["Redis", "model server", "web"]
        told = Settings.from_env(model.environment)
        run = each.run(64)
        assert (told.engine, told.precision, told.batch_size) == (run.engine, run.precision, 64)
        assert (told.onnxruntime_provider, told.models) == (run.provider, (run.model,))
        assert (model.environment.get("CUDA_VISIBLE_DEVICES") == "-1") == (device == "cpu")
        if each.is_of_keras:
            assert read_model(Path(told.models_dir), run.model, weights=run.weights).weights == "random"


def test_the_ratio_is_of_the_best_batch_of_the_same_round() -> None:
    assert gpu.best(BARE) == [400.0, 600.0]
    assert gpu.ratio(BARE, [point(200), point(450)]) == pytest.approx((0.5 + 0.75) / 2)
    assert gpu.web_share(point(1)) == 0.5


def test_the_tables_show_the_medians() -> None:
    campaign = GpuCampaign(asked(), Console(quiet=True))
    found = campaign.found | {"bare": {"a": BARE}, "starts": {"a": [3.0]}, "served engine": "a"}
    found["served"] = {"32": [asdict(point(rate)) for rate in (200.0, 450.0)]}
    console = Console(width=150)
    with console.capture() as shown:
        for table in gpu.tables(found):
            console.print(table)
    text = shown.get()
    alone = ["75.0", "450.0", "450.0", "3.0"]  # batches of 1, 8 and 64, and the start
    service = ["325.0", "0.62", "10.0", "20.0", "0", "4.00", "50%", "0.0"]
    rows = [[cell.strip() for cell in line.split("│")[2:-1]] for line in text.splitlines() if "│" in line]
    assert rows == [alone, service]


def test_names_are_unique() -> None:
    for device, every in CONTESTANTS.items():
        assert len({each.name for each in every}) == len(every), device
    assert EngineContestant("onnxruntime", "fp16", "tensorrt").name == "onnxruntime tensorrt fp16"
