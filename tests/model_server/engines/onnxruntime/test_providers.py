"""Which provider ONNXRUNTIME_PROVIDER means, on machines and builds that are described, not there."""

import pytest

from broker.errors import ModelUnavailable
from model_server.engines.onnxruntime import providers
from model_server.engines.onnxruntime.providers import CPU, CUDA, ON_CPU, TENSORRT

FOR_CPU = ("AzureExecutionProvider", CPU)
FOR_GPU = (TENSORRT, CUDA, CPU)


@pytest.mark.parametrize(
    ("setting", "available", "has_gpu", "name"),
    [
        ("auto", FOR_CPU, False, CPU),
        ("auto", FOR_CPU, True, CPU),
        ("auto", FOR_GPU, False, CPU),
        ("auto", FOR_GPU, True, CUDA),
        ("cpu", FOR_GPU, True, CPU),
        ("cuda", FOR_GPU, True, CUDA),
        ("tensorrt", FOR_GPU, True, TENSORRT),
    ],
)
def test_what_a_setting_means(setting: str, available: tuple[str, ...], name: str, *, has_gpu: bool) -> None:
    assert providers.choose("net", setting, "fp32", available, has_gpu=has_gpu) == name


@pytest.mark.parametrize("setting", ["cuda", "tensorrt"])
def test_a_build_without_it_is_refused_with_the_command(setting: str) -> None:
    with pytest.raises(ModelUnavailable) as refused:
        providers.choose("net", setting, "fp32", FOR_CPU, has_gpu=True)
    assert f"ONNXRUNTIME_PROVIDER={setting} needs a build of ONNX Runtime with" in refused.value.message
    assert "has AzureExecutionProvider, CPUExecutionProvider." in refused.value.message
    assert refused.value.message.endswith(providers.INSTALL_FOR_GPU)


def test_a_machine_without_a_gpu_is_refused() -> None:
    with pytest.raises(ModelUnavailable, match="cuda needs an NVIDIA GPU, and this machine shows none"):
        providers.choose("net", "cuda", "fp32", FOR_GPU, has_gpu=False)


@pytest.mark.parametrize(
    ("setting", "precision", "words"),
    [
        ("cpu", "bf16", r"computes in fp32 on CPUExecutionProvider, not in bf16.*=tensorrt has fp16, too"),
        ("cuda", "fp16", r"computes in fp32 on CUDAExecutionProvider, not in fp16"),
        ("tensorrt", "bf16", r"computes in fp32 or fp16 on TensorrtExecutionProvider.*PRECISION=auto\.$"),
    ],
)
def test_a_precision_that_it_has_not_is_refused(setting: str, precision: str, words: str) -> None:
    with pytest.raises(ModelUnavailable, match=words):
        providers.choose("net", setting, precision, FOR_GPU, has_gpu=True)


def test_tensorrt_builds_one_engine_for_every_size_of_batch() -> None:
    made = providers.provider(TENSORRT, "fp16", "x", (3, 8, 9), 32)
    assert made.chain == [
        (
            TENSORRT,
            {
                "trt_profile_min_shapes": "x:1x3x8x9",
                "trt_profile_opt_shapes": "x:32x3x8x9",
                "trt_profile_max_shapes": "x:32x3x8x9",
                "trt_fp16_enable": "1",
            },
        ),
        (CUDA, {"use_tf32": "0"}),
        (CPU, {}),
    ]
    assert providers.provider(TENSORRT, "fp32", "x", (3, 8, 9), None).options == {}
    assert "trt_fp16_enable" not in providers.provider(TENSORRT, "fp32", "x", (3, 8, 9), 32).options
    assert made.for_pixels == providers.provider(CUDA, "fp32", "x", (3, 8, 9), 32)
    assert (made.device, ON_CPU.device) == ("cuda", "cpu")


def test_on_the_cpu_there_is_nothing_to_set() -> None:
    assert providers.provider(CPU, "fp32", "x", (3, 8, 9), 32) == ON_CPU
    assert ON_CPU.chain == [(CPU, {})]
    assert ON_CPU.for_pixels == ON_CPU
