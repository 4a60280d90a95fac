"""The settings: one frozen object made from the environment. The only reader of os.environ.

Owns names, defaults, bounds and the words of a refusal. Entry points call `Settings.from_env()` once and
hand out what each part needs; nothing reads a setting at import.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from broker.connection import masked
from broker.keys import MODEL_NAME

PROJECT: Final = Path(__file__).resolve().parent

EMBEDDED_REDIS: Final = PROJECT / "var" / "redis" / "redis.sock"
"""The socket of the Redis that `make serve` runs where REDIS_URL is unset."""

EXIT_CONFIG: Final = 78
"""Exit status (EX_CONFIG) of a program with a setting that can't work: starting it again would not help."""


class SettingError(ValueError):
    """A variable has a value that it can't have; the message names variable, value and bound."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a variable's text becomes its value (ValueError: it can't), and the bound in words."""

    read: Callable[[str], Any]
    bound: str
    secret: bool = False


def _number(low: float, high: float) -> _Kind:
    return _Kind(lambda text: _within(float(text), low, high), f"a number from {low:g} to {high:g}")


def _whole(low: int, high: int) -> _Kind:
    return _Kind(lambda text: _within(int(text), low, high), f"a whole number from {low} to {high}")


def _none_or(low: int, high: int) -> _Kind:
    return _Kind(
        lambda text: 0 if int(text) == 0 else _within(int(text), low, high),
        f"0 or a whole number from {low} to {high}",
    )


def _within(value: float, low: float, high: float) -> float:
    if not low <= value <= high:  # so that nan is refused too
        raise ValueError
    return value


def _one_of(*choices: str) -> _Kind:
    return _Kind(lambda text: choices[choices.index(text)], "one of " + ", ".join(choices))


def _model(text: str) -> str:
    if not MODEL_NAME.fullmatch(text):
        raise ValueError
    return text


def _models(text: str) -> tuple[str, ...]:
    names = tuple(_model(name.strip()) for name in text.split(","))
    if len(set(names)) != len(names):
        raise ValueError
    return names


def _model_or_none(text: str) -> str:
    return "" if text == "none" else _model(text)


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(origin.strip() for origin in text.split(","))
    if origins == ("*",):
        return origins
    for origin in origins:
        parts = urlsplit(origin)
        # What a browser sends: nothing but scheme, host and port, in lower case.
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ValueError
        if origin != f"{parts.scheme}://{parts.netloc}".lower() or not _HOST.fullmatch(parts.hostname):
            raise ValueError
        _ = parts.port  # ValueError: none that can be
    return origins


def _redis_url(text: str) -> str:
    parts = urlsplit(text)
    place = parts.path if parts.scheme == "unix" else parts.hostname
    if parts.scheme not in ("redis", "rediss", "unix") or not place:
        raise ValueError
    return text


_HOST: Final = re.compile(r"[a-z0-9.:-]+")
_TEXT: Final = _Kind(str, "any text")
_MODEL: Final = _Kind(_model, "a model's name (a-z, 0-9, _ and -)")
_MODEL_OR_NONE: Final = _Kind(_model_or_none, "a model's name (a-z, 0-9, _ and -), or none")
_ORIGINS: Final = _Kind(
    _origins, "* or a list of origins such as https://example.org:8080, with commas between"
)
_MODELS: Final = _Kind(_models, "a list of models' names (a-z, 0-9, _ and -), each once, with commas between")
_REDIS_URL: Final = _Kind(
    _redis_url, "redis://HOST:PORT/0, rediss://HOST:PORT/0 or unix:///PATH", secret=True
)


def _setting(default: Any, kind: _Kind) -> Any:  # noqa: ANN401 - the field's own annotation says the type
    return field(default=default, metadata={"kind": kind})


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting. Each field's name in capitals is its variable; README.md has the table."""

    bind: str = _setting("127.0.0.1", _TEXT)
    """Address that the web tier listens on; there is no authentication, so it is this machine's own."""
    port: int = _setting(5000, _whole(1, 65535))
    redis_url: str = _setting("", _REDIS_URL)
    """Empty: `make serve` runs a Redis of its own."""
    key_prefix: str = _setting("bw:", _TEXT)
    """What all keys begin with, so that several services can share a Redis."""
    models: tuple[str, ...] = _setting(("resnet50", "digits"), _MODELS)
    """The models that a model server loads, and that `make serve` waits for."""
    default_model: str = _setting("", _MODEL)
    """The model of a request that names none; empty: the first of MODELS."""
    fallback_model: str = _setting("", _MODEL_OR_NONE)
    """The model that answers for a default model which failed to load; empty: none does."""
    models_dir: str = _setting(str(PROJECT / "models"), _TEXT)
    """The catalogue: one folder a model."""
    resnet50_weights: str = _setting("imagenet", _TEXT)
    """`imagenet` (downloaded once), a path, or `random` (for measuring speed). Each model of a
    keras_application has such a variable: `weights`, below."""
    engine: str = _setting("auto", _one_of("auto", "tensorflow", "openvino", "jax"))
    """`auto`: openvino on CPUs where it is installed, on a GPU Keras' own backend."""
    precision: str = _setting("auto", _one_of("auto", "fp32", "bf16", "fp16", "int8"))
    """What networks compute in; `auto`: bf16 where the CPU has it (fp16 on a GPU), else fp32."""
    keras_backend: str = _setting("tensorflow", _one_of("tensorflow", "jax"))
    """Keras' own variable: what runs Keras networks where ENGINE=auto finds a GPU, or no OpenVINO."""
    engine_threads: int = _setting(0, _whole(0, 1024))
    """Threads of one call of a network; 0: one a core. Fewer leave cores to a web tier beside it."""
    cache_dir: str = _setting(str(PROJECT / "var" / "engines"), _TEXT)
    """Where converted networks are kept, so that only the first start needs TensorFlow."""
    batch_size: int = _setting(32, _whole(1, 1024))
    """The most pictures in one call of the network."""
    batch_wait_ms: float = _setting(0.0, _number(0, 1000))
    """How long a batch that is not full waits for more pictures while the network has nothing to do. It is
    for networks whose call takes as long for one picture as for many; any other loses by it."""
    queue_limit: int = _setting(1024, _whole(1, 1_000_000))
    """The most jobs that wait for one model; more are refused at once."""
    queue_limit_mb: int = _setting(256, _whole(1, 1_000_000))
    """The most megabytes (2^20 bytes) of jobs that wait for one model."""
    request_timeout_s: float = _setting(10.0, _number(0.1, 3600))
    """How long a client waits for its answer before it gets 504."""
    async_timeout_s: float = _setting(300.0, _number(0.1, 86400))
    """How long a job that is polled for may wait."""
    result_ttl_s: int = _setting(60, _whole(1, 86400))
    """How long a result can be polled."""
    lease_s: float = _setting(3.0, _number(0.5, 60))
    """A worker that was silent for so long is taken for dead. Shorter recovers sooner, but a pause of
    the machine then looks like a death."""
    max_attempts: int = _setting(3, _whole(2, 100))
    """How many workers a job may cost before it is given up."""
    model_call_max_s: float = _setting(60.0, _number(1, 3600))
    """A call of the network that takes longer hangs: the process is ended and started anew."""
    cors_origins: tuple[str, ...] = _setting((), _ORIGINS)
    """Origins whose pages may use the service from a browser; empty: only its own."""
    max_upload_mb: int = _setting(20, _whole(1, 1024))
    """The most megabytes (2^20 bytes) of a request."""
    max_pixels: int = _setting(50_000_000, _whole(1, 1_000_000_000))
    """The most pixels of a picture, judged from its header."""
    model_servers: int = _setting(1, _whole(1, 64))
    """Model server processes under `make serve`."""
    web_workers: int = _setting(0, _whole(0, 64))
    """Web processes; 0: one a core, from 2 to 16."""
    web_threads: int = _setting(0, _none_or(9, 2048))
    """Threads in each; one waits for each request in flight, a few are kept for health checks. 0: together
    1,024 and those, in each 128 at least; they are started when they are needed."""
    log_level: str = _setting("info", _one_of("debug", "info", "warning", "error"))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read every variable; an empty one counts as unset. Raises SettingError."""
        given: dict[str, Any] = {
            each.name: _read(each.name.upper(), environ[each.name.upper()].strip(), each.metadata["kind"])
            for each in fields(cls)
            if environ.get(each.name.upper(), "").strip()
        }
        settings = cls(**given)
        if settings.default_model:
            return settings
        return cls(**{**given, "default_model": settings.models[0]})

    @property
    def served(self) -> tuple[str, ...]:
        """The models that a model server loads: MODELS, and the one that falls in for the default."""
        extra = self.fallback_model
        return (*self.models, extra) if extra and extra not in self.models else self.models

    @property
    def key_ttl_s(self) -> int:
        """Seconds that any key outlives its last write: more than the longest deadline and a tombstone."""
        longest_s = max(self.request_timeout_s, self.async_timeout_s) + self.result_ttl_s
        return max(3600, 2 * int(longest_s))

    @property
    def listen(self) -> str:
        """ADDRESS:PORT for a server; an IPv6 address in brackets."""
        return f"[{self.bind}]:{self.port}" if ":" in self.bind else f"{self.bind}:{self.port}"

    @property
    def local_url(self) -> str:
        """Where a client on this machine finds the service."""
        everywhere = self.bind in ("127.0.0.1", "localhost", "0.0.0.0", "::")  # noqa: S104 - compared, not bound
        return f"http://localhost:{self.port}" if everywhere else f"http://{self.listen}"

    def environment(self) -> dict[str, str]:
        """This process' environment with the variables that make these settings again, for a child."""
        values = {each.name.upper(): getattr(self, each.name) for each in fields(self)}
        return dict(os.environ) | {
            name: ",".join(value) if isinstance(value, tuple) else str(value)
            for name, value in values.items()
        }

    def __repr__(self) -> str:
        shown = (
            f"{each.name}={masked(value) if each.metadata['kind'].secret else value!r}"
            for each in fields(self)
            for value in [getattr(self, each.name)]
        )
        return f"Settings({', '.join(shown)})"


def weights(settings: Settings, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variable -> value of RESNET50_WEIGHTS and of every other model's NAME_WEIGHTS that is set."""
    given = {name: text.strip() for name, text in environ.items() if name.endswith("_WEIGHTS")}
    if settings.resnet50_weights != "imagenet":
        given["RESNET50_WEIGHTS"] = settings.resnet50_weights
    return {name: text for name, text in given.items() if text}


def is_given(variable: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the user has set a variable, be it to nothing."""
    return variable in environ


def _read(variable: str, text: str, kind: _Kind) -> object:
    try:
        return kind.read(text)
    except ValueError:
        shown = masked(text) if kind.secret else text
        raise SettingError(f"{variable}={shown!r} is not {kind.bound}.") from None
