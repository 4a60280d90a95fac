"""Every setting: one frozen object made from environment variables. The only reader of `os.environ`.

Owns the variables' names, defaults and bounds, the wording of a refusal, and how a URL is shown without its
password. Entry points call `Settings.from_env()` once and hand each part what it needs.

Imports the standard library alone: `make serve` checks the settings before anything is installed. The price
is that the pattern of a model's name is also in broker/keys.py; a test compares the two.
"""

import base64
import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Final, Generic, Self, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

PROJECT: Final = Path(__file__).resolve().parent

EMBEDDED_REDIS: Final = PROJECT / "var" / "redis" / "redis.sock"
"""The socket of the Redis that `make serve` runs when REDIS_URL is unset."""

EXIT_CONFIG: Final = 78
"""The exit status (EX_CONFIG) of a program that has an invalid setting: restarting it would not help."""

_MODEL_NAME: Final = re.compile(r"[a-z0-9_-]+")
_HOST: Final = re.compile(r"[a-z0-9.:-]+")
_WEBHOOK_HOST: Final = re.compile(
    r"(?P<host>\[[0-9a-f:./]+\]|[a-z0-9_.*-]+(?:/\d{1,2})?)(?::(?P<port>\d{1,5}))?"
)
_HOST_AND_PORT: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\[\]:/\s]+)(?::\d{1,5})?")
_PRIMARY: Final = re.compile(r"/[^/]+(?:/\d*)?")
_CLUSTER: Final = re.compile(r"(?:/0?)?")
_WHERE: Final = {"sentinel": _PRIMARY, "sentinels": _PRIMARY, "cluster": _CLUSTER, "clusters": _CLUSTER}
"""What comes after the hosts."""
_STORE_PLACE: Final = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[A-Za-z0-9][^\s?#\\:]*")
_WEBHOOK_NAME: Final = re.compile(
    r"(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
)


_SLIP: Final = 2
"""Letters more or less by which a variable may miss a setting's name."""

_T = TypeVar("_T")
_NumberT = TypeVar("_NumberT", int, float)


class SettingError(ValueError):
    """A variable has an invalid value; the message names the variable, the value and the bound."""


@dataclass(frozen=True, slots=True)
class Bound(Generic[_T]):
    """What a variable may be: `read` parses its text (ValueError: out of bounds), `words` describe it."""

    read: Callable[[str], _T]
    words: str
    mask: Callable[[str], str] | None = None
    """How a secret is shown."""


def _setting(default: _T, bound: Bound[_T]) -> _T:
    """A field of Settings. The type checker sees that its annotation, default and bound agree."""
    return field(default=default, metadata={"bound": bound})


def _text(default: str) -> str:
    return _setting(default, Bound(str, "any text"))


def _number(default: float, low: float, high: float) -> float:
    return _setting(
        default, Bound(lambda text: _within(float(text), low, high), f"a number from {low:g} to {high:g}")
    )


def _whole(default: int, low: int, high: int) -> int:
    return _setting(
        default, Bound(lambda text: _within(int(text), low, high), f"a whole number from {low} to {high}")
    )


def _zero_or(default: int, low: int, high: int) -> int:
    def read(text: str) -> int:
        return 0 if int(text) == 0 else _within(int(text), low, high)

    return _setting(default, Bound(read, f"0 or a whole number from {low} to {high}"))


def _one_of(default: str, *choices: str) -> str:
    return _setting(default, Bound(lambda text: choices[choices.index(text)], "one of " + ", ".join(choices)))


def _within(value: _NumberT, low: _NumberT, high: _NumberT) -> _NumberT:
    if not low <= value <= high:  # not `value < low or ...`, which NaN would pass
        raise ValueError
    return value


def _model(text: str) -> str:
    if not _MODEL_NAME.fullmatch(text):
        raise ValueError
    return text


def _model_or_none(text: str) -> str:
    return "" if text == "none" else _model(text)


def _models(text: str) -> tuple[str, ...]:
    names = tuple(_model(name.strip()) for name in text.split(","))
    if len(set(names)) != len(names):
        raise ValueError
    return names


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(origin.strip() for origin in text.split(","))
    return origins if origins == ("*",) else tuple(map(_origin, origins))


def _origin(text: str) -> str:
    """An origin as browsers send it: scheme, host and port in lower case, nothing else."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError
    if text != f"{parts.scheme}://{parts.netloc}".lower() or not _HOST.fullmatch(parts.hostname):
        raise ValueError
    _ = parts.port  # raises ValueError if it is not a port
    return text


def _webhook_hosts(text: str) -> tuple[str, ...]:
    return tuple(_webhook_host(entry.strip().lower()) for entry in text.split(","))


def _webhook_host(text: str) -> str:
    """An entry that web/webhooks/callback_hosts.py understands, which has the rules."""
    rest = text.removeprefix("http://")
    match = _WEBHOOK_HOST.fullmatch(rest)
    if _is_network(rest):  # an IPv6 network needs no brackets where no port follows
        return text
    if match is None or not 1 <= int(match["port"] or 443) <= 65535:
        raise ValueError
    if not _is_network(match["host"].strip("[]")) and not _WEBHOOK_NAME.fullmatch(match["host"]):
        raise ValueError
    return text


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def _networks(text: str) -> tuple[str, ...]:
    return tuple(str(ipaddress.ip_network(entry.strip())) for entry in text.split(","))


def _webhook_secret(text: str) -> str:
    """Secrets of 24 to 64 bytes, as Standard Webhooks has them."""
    for secret in text.split():
        if not secret.startswith("whsec_"):
            raise ValueError
        _within(len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)), 24, 64)
    return " ".join(text.split())


def _models_dir(text: str) -> str:
    """A directory, or the address of a store."""
    scheme, separator, place = text.partition("://")
    if not separator:
        return text
    parts = urlsplit(text)
    _ = parts.port  # raises ValueError if it is not a port
    if scheme in ("s3", "gs", "hf"):
        if not _STORE_PLACE.fullmatch(place) or (scheme == "hf" and place.strip("/").count("/") < 1):
            raise ValueError
        return text
    if scheme != "https" and not (scheme == "http" and _is_loopback(parts.hostname or "")):
        raise ValueError
    if not parts.hostname or not parts.path.endswith((".zip", ".tar.gz", ".tgz")):
        raise ValueError
    return text


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _redis_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme in _WHERE:
        hosts = parts.netloc.rpartition("@")[2].split(",")
        if not all(map(_HOST_AND_PORT.fullmatch, hosts)) or not _WHERE[parts.scheme].fullmatch(parts.path):
            raise ValueError
        return text
    place = parts.path if parts.scheme == "unix" else parts.hostname
    if parts.scheme not in ("redis", "rediss", "unix") or not place:
        raise ValueError
    return text


def _collector(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError
    _ = parts.port  # raises ValueError if it is not a port
    return text


def _headers(text: str) -> str:
    if not all("=" in each for each in text.split(",")):
        raise ValueError
    return text


_TLS_FILES: Final = frozenset(("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"))
"""What redis-py reads of a URL's query, as files."""

_MODEL: Final = Bound(_model, "a model name (a-z, 0-9, _ and -)")
_MODEL_OR_NONE: Final = Bound(_model_or_none, "a model name (a-z, 0-9, _ and -) or none")
_MODELS: Final = Bound(_models, "a comma-separated list of unique model names (a-z, 0-9, _ and -)")
_ORIGINS: Final = Bound(_origins, "* or a comma-separated list of origins like https://example.org:8080")
_REDIS_URL: Final = Bound(
    _redis_url,
    "redis://HOST:PORT/0, rediss://HOST:PORT/0, unix:///PATH, sentinel://HOST:PORT,HOST:PORT/NAME or "
    "cluster://HOST:PORT,HOST:PORT (sentinels:// and clusters:// with TLS)",
    mask=lambda text: masked(text),  # noqa: PLW0108 - it is defined below
)
_MODELS_DIR: Final = Bound(
    _models_dir,
    "a directory, s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, hf://OWNER/REPOSITORY[@REVISION][/FOLDER] or "
    "https://HOST/ARCHIVE.zip (.tar.gz, .tgz; http:// only to this machine)",
    mask=lambda text: masked_address(text),  # noqa: PLW0108 - it is defined below
)
_WEBHOOK_HOSTS: Final = Bound(
    _webhook_hosts,
    "a comma-separated list of hosts, `*.`hosts, addresses or networks, each with `:PORT` after it and "
    "`http://` before it or not",
)
_NETWORKS: Final = Bound(_networks, "a comma-separated list of IP addresses and networks like 10.1.0.0/16")
_COLLECTOR: Final = Bound(
    _collector,
    "http://HOST:PORT or https://HOST:PORT",
    mask=lambda text: masked(text),  # noqa: PLW0108 - it is defined below
)
_HEADERS: Final = Bound(_headers, "NAME=VALUE,NAME=VALUE", mask=lambda text: "***" if text else "")
_WEBHOOK_SECRET: Final = Bound(
    _webhook_secret,
    "`whsec_` and the base64 of 24 to 64 bytes, or several of these, separated by spaces",
    mask=lambda text: "***" if text else "",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting. A field's name in capitals is its variable; docs/settings.md is made from the fields."""

    bind: str = _text("127.0.0.1")
    """The address to listen on. Without `API_KEYS=required` whoever reaches it may use it. There is no TLS:
    keys that cross a network need a proxy that has it."""
    port: int = _whole(5000, 1, 65535)
    """The port to listen on."""
    grpc_port: int = _zero_or(8001, 1, 65535)
    """The port to listen on for gRPC. 0: there is no gRPC."""
    redis_url: str = _setting("", _REDIS_URL)
    """Your Redis (6.2 or newer) or Valkey, also [behind Sentinels](operations.md#redis-that-fails-over) or a
    [cluster](operations.md#redis-cluster). Unset: `make serve` runs its own, on a Unix socket in `var/`."""
    redis_password_file: str = _text("")
    """A file with the password of `REDIS_URL`'s user, such as a container's secret. Unset: the URL has it, if
    there is one."""
    redis_replicas: int = _whole(0, 0, 16)
    """How many replicas of Redis must have a polled job before its client gets 202. Without them it gets 503
    after half a second, and the job is cancelled ([more](operations.md#redis-that-fails-over))."""
    key_prefix: str = _text("bw:")
    """The prefix of every key in Redis, so that several services can share one Redis."""
    models: tuple[str, ...] = _setting(("resnet50", "digits"), _MODELS)
    """The models that each model server loads."""
    default_model: str = _setting("", _MODEL)
    """The model that answers a request that names none. Unset: the first of `MODELS`."""
    fallback_model: str = _setting("", _MODEL_OR_NONE)
    """The model that answers in place of a default model that failed to load; model servers load it as
    well. Unset: `make serve` uses `photos10` if it is in `MODELS_DIR`; `none` turns the fallback off."""
    models_dir: str = _setting(str(PROJECT / "models"), _MODELS_DIR)
    """The directory of the models, one subdirectory each, or a [store](models.md#model-stores):
    `s3://`, `gs://`, `hf://` or an archive's `https://`."""
    store_look_s: float = _number(30.0, 1, 86400)
    """How many seconds pass between two looks at a store's models."""
    store_max_mb: int = _whole(4096, 1, 1_000_000)
    """The largest size of a model in a store, and of an archive, packed or not, in megabytes (2^20 bytes)."""
    store_hooks: str = _one_of("off", "on", "off")
    """Whether a `hooks.py` from a store may run, besides `HOOKS=on`. `on` lets whoever may write to the store
    run code as the model server's user."""
    resnet50_weights: str = _text("imagenet")
    """The weights of `resnet50`: `imagenet` (downloaded once), the path of a file, or `random` (to measure
    speed)."""
    engine: str = _one_of("auto", "auto", "tensorflow", "openvino", "jax", "torch", "onnxruntime")
    """What runs a network. `auto`: OpenVINO on a CPU, `KERAS_BACKEND` on a GPU. Imported networks need
    OpenVINO; `torch` runs those of PyTorch, and `auto` chooses it for those that OpenVINO can't convert;
    `onnxruntime` runs ONNX files."""
    precision: str = _one_of("auto", "auto", "fp32", "bf16", "fp16", "int8")
    """The precision that a network computes in. `auto`: int8 if an imported network was quantised (fp32 on
    CPUs without VNNI), fp32 for a task whose numbers are the answer, bf16 on a CPU that is faster in it (it
    is measured at the start: with AMX it is), fp16 on a GPU, else fp32."""
    keras_backend: str = _one_of("tensorflow", "tensorflow", "jax")
    """What runs a Keras network that OpenVINO does not run; Keras reads the same variable. `jax` has to be
    installed first (`.venv/bin/python -m pip install jax`)."""
    onnxruntime_provider: str = _one_of("auto", "auto", "cpu", "cuda", "tensorrt")
    """What `ENGINE=onnxruntime` runs on. `auto`: `cuda` if there is an NVIDIA GPU and the installed build of
    ONNX Runtime can use it, else `cpu`. One that is named is never replaced by another."""
    engine_threads: int = _whole(0, 0, 1024)
    """The threads of one call of a network. 0: one per core. Fewer leave cores to a web tier on the same
    machine."""
    hooks: str = _one_of("on", "on", "off")
    """Whether the code in a model's `hooks.py` may run. `off`: a model with a `hooks.py` is not served."""
    cache_dir: str = _text(str(PROJECT / "var" / "engines"))
    """The directory of converted networks, and of copies of a store's models. Only the start that converts a
    network needs TensorFlow."""
    batch_size: int = _whole(32, 1, 1024)
    """The largest number of images in one call of a network."""
    batch_wait_ms: float = _number(0.0, 0, 1000)
    """How many milliseconds an incomplete batch waits for more images while the network is idle. It only
    helps a network whose call takes as long for one image as for many."""
    queue_shards: int = _whole(1, 1, 32)
    """Into how many shards a model's queue is split, which a Redis Cluster spreads over its nodes. The web
    tier learns it from the model servers."""
    queue_limit: int = _whole(1024, 1, 1_000_000)
    """The largest number of jobs in one model's queue; more are refused with 503, as is a job that would
    wait for more than half of `REQUEST_TIMEOUT_S` (`ASYNC_TIMEOUT_S` if its client polls) at the model's
    measured pace, or at 16 pictures/s while that is unknown. Jobs of clients that poll may be three
    quarters of them."""
    queue_limit_mb: int = _whole(256, 1, 1_000_000)
    """The largest size of one model's queue, in megabytes (2^20 bytes)."""
    request_timeout_s: float = _number(10.0, 0.1, 3600)
    """How many seconds a client waits for its answer before it gets 504."""
    async_timeout_s: float = _number(300.0, 0.1, 86400)
    """How many seconds a job may wait if its client polls for the result."""
    result_ttl_s: int = _whole(60, 1, 86400)
    """How many seconds a result can be polled for."""
    result_cache_s: int = _whole(0, 0, 86400)
    """How many seconds a result answers requests with the same picture, model, version and `top`, without a
    run; identical requests in flight share one. 0: off. What is kept of one model takes at most a quarter of
    `QUEUE_LIMIT_MB`."""
    scale_to_zero: str = _one_of("off", "off", "on")
    """Whether model servers may be scaled to zero. `on`: a picture for a model that no model server serves
    waits in the queue for one until its client's time is over, and `/readyz` does not ask for a live one.
    `off`: 503 once none has lived for `REQUEST_TIMEOUT_S`."""
    lease_s: float = _number(3.0, 0.5, 60)
    """After how many seconds without a sign of life a model server counts as dead. A shorter lease recovers
    sooner, but mistakes a pause of the machine for a death."""
    max_attempts: int = _whole(3, 2, 100)
    """How many model servers may die while they run a job before the job is given up."""
    dead_letter_pictures: str = _one_of("keep", "keep", "drop")
    """Whether a dead letter keeps its picture, for a week, so that it can be queued again. `drop`: it keeps
    its ids, times and reason alone."""
    model_call_max_s: float = _number(60.0, 1, 3600)
    """After how many seconds a call of a network counts as hung, and its process is restarted."""
    api_keys: str = _one_of("off", "off", "required")
    """Whether requests need an API key. `required`: each is judged by its key, with that key's limits
    (`python -m web.keys`); health checks need none."""
    cors_origins: tuple[str, ...] = _setting((), _ORIGINS)
    """The origins whose pages may use the service from a browser; `*`: all. Unset: only its own pages."""
    infer_cors_origins: tuple[str, ...] = _setting((), _ORIGINS)
    """The origins whose pages may use `/infer` from a browser, besides those of `CORS_ORIGINS`; `*`: all."""
    webhook_hosts: tuple[str, ...] = _setting((), _WEBHOOK_HOSTS)
    """The receivers that a `callback_url` may name: `hooks.example.org`, `*.example.org`, `10.1.2.3:8443`,
    `10.1.0.0/16`. Without a port: 443; `http://` before one allows plain HTTP (80). A name that resolves to
    an address that is not public is refused unless that address or its network is listed too, with the same
    scheme and port: `http://localhost:8080,http://127.0.0.1:8080`. Unset: no webhooks."""
    webhook_secret: str = _setting("", _WEBHOOK_SECRET)
    """What webhooks are signed with; required with `WEBHOOK_HOSTS`. Several during a rotation: each signs."""
    trusted_proxies: tuple[str, ...] = _setting((), _NETWORKS)
    """The proxies in front, whose `X-Forwarded-For` tells a client's address: `127.0.0.1,10.1.0.0/16`. From
    anyone else the field is ignored. Unset: whoever connects is the client."""
    files_dir: str = _text("")
    """The directory whose pictures `GET /classify?file=NAME` may read. Unset: no file is read."""
    keepalive_s: int = _whole(120, 1, 3600)
    """How many seconds a connection may be idle between two requests. It should be longer than the clients
    and balancers in front keep theirs, or they send into one that has just been closed: nginx and AWS keep
    them for 60 s, Go for 90 s, Google's load balancer for 600 s."""
    max_upload_mb: int = _whole(20, 1, 1024)
    """The largest request body, in megabytes (2^20 bytes)."""
    max_pixels: int = _whole(64_000_000, 1, 1_000_000_000)
    """The largest number of pixels in an image, read from its header before it is decoded. Those of one
    request may have four times as many together."""
    model_servers: int = _whole(1, 1, 64)
    """How many model server processes `make serve` runs."""
    health_dir: str = _text(str(PROJECT / "var" / "health"))
    """The directory in which model servers write that they hold their leases. If you change it,
    `.venv/bin/python -m model_server health` needs `--dir`."""
    metrics_port: int = _zero_or(0, 1, 65535)
    """The port on which a model server or the process of gRPC tells its metrics to Prometheus; several on one
    host take this one and those after it. 0: none. The web tier tells its own at `/metrics`."""
    web_workers: int = _whole(0, 0, 64)
    """How many web processes run. 0: one per core, at least 2 and at most 16."""
    web_threads: int = _zero_or(0, 9, 2048)
    """How many threads each web process may start: one for each request in flight, and eight reserved for
    health checks. 0: enough for 1,024 requests in all processes together, at least 128."""
    log_level: str = _one_of("info", "debug", "info", "warning", "error")
    """The lowest level that is logged."""
    log_format: str = _one_of("text", "text", "json")
    """`json`: each line of the log is one JSON object, with the ids of requests and jobs as fields."""
    access_log: str = _one_of("off", "off", "on")
    """Whether each answered request has a line in the log, at the level `info`."""
    otel_exporter_otlp_endpoint: str = _setting("", _COLLECTOR)
    """The collector of OpenTelemetry that gets traces, by OTLP over HTTP: `http://localhost:4318`. Unset: no
    traces. Other variables of the SDK (`OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`) work, too."""
    otel_exporter_otlp_headers: str = _setting("", _HEADERS)
    """What the collector asks for, such as a key: `name=value`, separated by commas."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read every variable; an empty one counts as unset. Raises SettingError."""
        texts = {each: environ.get(each.name.upper(), "").strip() for each in fields(cls)}
        values = {
            each.name: _read(each.name.upper(), text, each.metadata["bound"])
            for each, text in texts.items()
            if text
        }
        settings = cls(**values)
        if settings.webhook_hosts and not settings.webhook_secret:
            raise SettingError(
                "WEBHOOK_HOSTS is set, but WEBHOOK_SECRET is not: receivers could not tell webhooks from "
                'forgeries. Make one with: echo "whsec_$(openssl rand -base64 32)"'
            )
        settings = settings._with_redis_password()
        settings._check_redis_tls()
        return settings if settings.default_model else replace(settings, default_model=settings.models[0])

    def _with_redis_password(self) -> Self:
        """These settings, with the password of the file in the URL. Raises SettingError."""
        if not self.redis_password_file or not self.redis_url:
            return self
        try:
            password = Path(self.redis_password_file).read_text("utf-8").strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise SettingError(
                f"REDIS_PASSWORD_FILE={self.redis_password_file!r} can't be read: {why}. It has to be a file "
                "with the password of REDIS_URL's user and nothing else."
            ) from None
        parts = urlsplit(self.redis_url)
        user, _, place = parts.netloc.rpartition("@")
        netloc = f"{user.partition(':')[0]}:{quote(password, safe='')}@{place}"
        return replace(self, redis_url=parts._replace(netloc=netloc).geturl())

    def _check_redis_tls(self) -> None:
        """Raise SettingError where TLS would not verify Redis, or a file for it can't be read."""
        parts = urlsplit(self.redis_url)
        query = parse_qs(parts.query)
        options = {name: query[name][0] for name in query if name.startswith("ssl_")}
        if options and parts.scheme not in ("rediss", "sentinels", "clusters"):
            raise SettingError(
                f"REDIS_URL has {', '.join(options)}, but TLS begins with rediss://, sentinels:// or clusters://."
            )
        verifies = options.get("ssl_cert_reqs", "required") == "required"
        if not verifies or options.get("ssl_check_hostname", "true").lower() != "true":
            raise SettingError(
                "REDIS_URL turns off the check of Redis' certificate: anybody between could read all "
                "pictures. Leave out ssl_cert_reqs and ssl_check_hostname; ssl_ca_certs=FILE names a CA of "
                "your own, or a self-signed certificate itself."
            )
        for name in _TLS_FILES & options.keys():
            try:
                Path(options[name]).open("rb").close()
            except OSError as error:
                why = f"can't be read: {error.strerror}."
                raise SettingError(f"{name}={options[name]!r} in REDIS_URL {why}") from None

    def require_redis(self) -> Self:
        """These settings, for a program that `make serve` starts with its Redis. Raises SettingError."""
        if not self.redis_url:
            raise SettingError(
                "REDIS_URL is not set. Set it to your Redis, or use `make serve`, which starts one."
            )
        return self

    @property
    def served(self) -> tuple[str, ...]:
        """The models that a model server loads: MODELS and the fallback model."""
        extra = self.fallback_model
        return (*self.models, extra) if extra and extra not in self.models else self.models

    @property
    def has_store(self) -> bool:
        """Whether the models come from a store, and not from a directory."""
        return "://" in self.models_dir

    @property
    def models_place(self) -> str:
        """MODELS_DIR without a password or a signature, for messages."""
        return masked_address(self.models_dir)

    def require_directory(self, command: str) -> Path:
        """MODELS_DIR, for a command that works on local folders. Raises SettingError."""
        if self.has_store:
            raise SettingError(
                f"`{command}` works on a local folder, and MODELS_DIR is {self.models_place}. Download the "
                "model's folder and name it by its path, or its parent in MODELS_DIR."
            )
        return Path(self.models_dir)

    @property
    def metrics_ports(self) -> int:
        """How many ports from METRICS_PORT on the processes of one host may take."""
        return min(self.model_servers + bool(self.grpc_port), 65536 - self.metrics_port)

    @property
    def key_ttl_s(self) -> int:
        """Seconds that a key outlives its last write: any deadline, and a step of Redis' clock by a day."""
        longest_s = max(self.request_timeout_s, self.async_timeout_s) + self.result_ttl_s
        return 86400 + 2 * int(longest_s)

    @property
    def listen(self) -> str:
        """ADDRESS:PORT for a server, with an IPv6 address in brackets."""
        return f"[{self.bind}]:{self.port}" if ":" in self.bind else f"{self.bind}:{self.port}"

    @property
    def local_url(self) -> str:
        """The URL at which a client on this machine reaches the service."""
        everywhere = self.bind in ("127.0.0.1", "localhost", "0.0.0.0", "::")  # noqa: S104 - compared, not bound
        return f"http://localhost:{self.port}" if everywhere else f"http://{self.listen}"

    def environment(self) -> dict[str, str]:
        """The environment for a child process, whose `from_env` then returns these settings."""
        values = {each.name.upper(): getattr(self, each.name) for each in fields(self)}
        return dict(os.environ) | {
            name: ",".join(value) if isinstance(value, tuple) else str(value)
            for name, value in values.items()
        }

    def __repr__(self) -> str:
        shown = (
            f"{each.name}={mask(value) if mask else repr(value)}"
            for each in fields(self)
            for value, mask in [(getattr(self, each.name), each.metadata["bound"].mask)]
        )
        return f"Settings({', '.join(shown)})"


def weights(settings: Settings, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variable -> value of RESNET50_WEIGHTS and of every other NAME_WEIGHTS that is set."""
    given = {name: text.strip() for name, text in environ.items() if name.endswith("_WEIGHTS")}
    if settings.resnet50_weights != "imagenet":
        given["RESNET50_WEIGHTS"] = settings.resnet50_weights
    return {name: text for name, text in given.items() if text}


_FOR_OWN_CODE: Final = frozenset(
    ("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "KERAS_BACKEND")
)
_PREFIXES_FOR_OWN_CODE: Final = (
    *("LC_", "PYTHON", "XDG_", "CUDA_", "NVIDIA_VISIBLE_", "NVIDIA_DRIVER_", "OMP_", "MKL_", "OPENBLAS_"),
    *(
        "TF_CPP_",
        "TF_ENABLE_",
        "TF_FORCE_",
        "TF_GPU_",
        "TF_NUM_",
        "TF_XLA_",
        "XLA_",
        "JAX_",
        "TORCH_",
        "PYTORCH_",
    ),
)
"""Not TF_ or NVIDIA_: Terraform's TF_VAR_ has passwords, and NVIDIA_API_KEY is one."""


def for_own_code(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that a model's own code finds: the system's and the frameworks', so no password."""
    return {
        name: value
        for name, value in environ.items()
        if name in _FOR_OWN_CODE or name.startswith(_PREFIXES_FOR_OWN_CODE)
    }


def is_given(variable: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the user has set a variable, if only to an empty value."""
    return variable in environ


def misspelt(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables that are set and no setting, but nearly one -> that setting's name.

    A service that was to ask for keys would be open, and not say so: `API_KEY=required` changes nothing.
    """
    names = [each.name.upper() for each in fields(Settings)]
    found = {}
    for variable in sorted(name for name, text in environ.items() if text.strip() and name not in names):
        if variable.endswith("_WEIGHTS"):  # a model's (see `weights`)
            continue
        near = get_close_matches(variable, names, 1, cutoff=0.85)
        # Another's UV_CACHE_DIR is no CACHE_DIR.
        if near and abs(len(near[0]) - len(variable)) <= _SLIP:
            found[variable] = near[0]
    return found


def masked(url: str) -> str:
    """`url` without its password, for messages and logs. Accepts any text: a refused URL is shown too."""
    # redis-py also accepts a password in the query.
    shown = re.sub(r"(?i)([?&][^?&=]*pass[^?&=]*)=[^&]*", r"\1=***", url)
    # Up to the last @, and not urlsplit's idea of a host: a password may contain /, # or [ by mistake.
    return re.sub(r"(?s)^((?:[^:/@]*://)?+[^:@]*:).*@", r"\1***@", shown)


def masked_address(url: str) -> str:
    """A store's address without its user, password and query (a signature, say). A path stays as it is.

    Accepts any text: a refused address is shown too.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    host, slash, path = re.split("[?#]", rest)[0].partition("/")
    host = host.rpartition("@")[2]
    # What looks like a port but is none may be the beginning of a password with a slash in it.
    is_plain = re.fullmatch(r"(?:\[[0-9A-Fa-f:.]+\]|[^:]*)(?::\d*)?", host)
    return f"{scheme}://{host}{slash}{path}" if is_plain else f"{scheme}://***"


def _read(variable: str, text: str, bound: Bound[_T]) -> _T:
    try:
        return bound.read(text)
    except ValueError:
        shown = bound.mask(text) if bound.mask else text
        raise SettingError(f"{variable}={shown!r} is not {bound.words}.") from None
