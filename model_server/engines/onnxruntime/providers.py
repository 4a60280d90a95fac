"""Which of ONNX Runtime's execution providers runs a network, and with which options.

Owns the meaning of ONNXRUNTIME_PROVIDER and the refusal of a provider that is not there: ONNX Runtime itself
would warn and run on the CPU. Loads nothing. CUDA and TensorRT were not run where this was written.
"""

from dataclasses import dataclass
from typing import Final

from broker.errors import ModelUnavailable

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"

_NAMES: Final = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}

INSTALL_FOR_GPU: Final = (
    ".venv/bin/python -m pip uninstall -y onnxruntime && "
    ".venv/bin/python -m pip install 'onnxruntime-gpu[cuda,cudnn]==1.31.1'"
)


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider of ONNX Runtime, and what a session of it is made with."""

    name: str
    """As ONNX Runtime spells it."""
    options: dict[str, str]

    @property
    def device(self) -> str:
        """Where its arrays lie, as ONNX Runtime names devices."""
        return "cpu" if self.name == CPU else "cuda"

    @property
    def chain(self) -> list[tuple[str, dict[str, str]]]:
        """It, and those that run the operations that it does not have, as ONNX Runtime's own pages say."""
        rest = {CPU: [], CUDA: [CPU], TENSORRT: [CUDA, CPU]}[self.name]
        return [(self.name, self.options), *((name, _OPTIONS.get(name, {})) for name in rest)]

    @property
    def for_pixels(self) -> "Provider":
        """The provider of the small graph before the network: TensorRT would build an engine for it."""
        return self if self.name != TENSORRT else Provider(CUDA, _OPTIONS[CUDA])


_OPTIONS: Final[dict[str, dict[str, str]]] = {
    # By default convolutions round to 10 bits (TF32) on GPUs that can: that is not fp32.
    CUDA: {"use_tf32": "0"},
}

ON_CPU: Final = Provider(CPU, {})


def choose(model: str, setting: str, precision: str, available: tuple[str, ...], *, has_gpu: bool) -> str:
    """The provider that ONNXRUNTIME_PROVIDER means: a value of `_NAMES`. Raises ModelUnavailable.

    `available` are the providers of the installed build, `has_gpu` says whether there is an NVIDIA GPU.
    """
    if setting == "auto":
        setting = "cuda" if has_gpu and CUDA in available else "cpu"
    name = _NAMES[setting]
    if name not in available:
        listed = ", ".join(available)
        raise ModelUnavailable(
            f"{model}: ONNXRUNTIME_PROVIDER={setting} needs a build of ONNX Runtime with {name}; the "
            f"installed one has {listed}. Install the build for GPUs in its place: {INSTALL_FOR_GPU}"
        )
    if name != CPU and not has_gpu:
        raise ModelUnavailable(
            f"{model}: ONNXRUNTIME_PROVIDER={setting} needs an NVIDIA GPU, and this machine shows none "
            "(/dev/nvidia*). In a container, docker-compose.gpu.yml hands it in."
        )
    allowed = ("fp32", "fp16") if name == TENSORRT else ("fp32",)
    if precision not in allowed:
        other = "" if name == TENSORRT else " ONNXRUNTIME_PROVIDER=tensorrt has fp16, too."
        raise ModelUnavailable(
            f"{model}: ENGINE=onnxruntime computes in {' or '.join(allowed)} on {name}, not in {precision}. "
            f"Set PRECISION=auto.{other}"
        )
    return name


def provider(name: str, precision: str, picture: str, shape: tuple[int, ...], most: int | None) -> Provider:
    """The provider of that name for batches of up to `most`; None: the network takes one size alone.

    `picture` is the name of the input, `shape` that of one picture. TensorRT builds its engine for a range of
    shapes: without this range, for each new one again.
    """
    if name != TENSORRT:
        return Provider(name, _OPTIONS.get(name, {}))
    sizes = "x".join(map(str, shape))
    bounds = {} if most is None else {"min": 1, "opt": most, "max": most}
    profile = {f"trt_profile_{bound}_shapes": f"{picture}:{batch}x{sizes}" for bound, batch in bounds.items()}
    half = {"trt_fp16_enable": "1"} if precision == "fp16" else {}
    return Provider(name, profile | half)
