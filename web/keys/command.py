"""`python -m web.keys add|list|change|rotate|revoke`: the operator's command for API keys.

Owns the command line, its messages and its exit status. A key is printed once, by `add` and `rotate`, and
can't be shown again: only its digest is stored.
"""

import argparse
import contextlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from broker.api_keys import NAME, PRIORITIES, RIGHTS, ApiKey, ApiKeyStore
from broker.connection import connect
from broker.errors import BrokerUnavailable, ClientError
from broker.keys import MODEL_NAME, Keys
from settings import EMBEDDED_REDIS, SettingError, Settings, masked
from web.keys import secret

DONE: Final = 0
REFUSED: Final = 1
"""The command ran, and refused something."""
IMPOSSIBLE: Final = 2
"""Nothing could be tried; argparse exits with the same status for an invalid command line."""

_REDIS_TIMEOUT_S: Final = 10.0

_MOST: Final = 1_000_000
_LEAST_RATE: Final = 1e-6
"""A picture in 12 days. Of far less Redis can't keep the bucket until it is full: it has no such TTL."""
_MOST_S: Final = 365 * 86400
_MOST_WEIGHT: Final = 10_000

_EPILOG: Final = """\
exit status: 0 success; 1 refused; 2 nothing could be tried.
The command reads the service's settings: give it the same REDIS_URL and KEY_PREFIX. Changes take effect
within 2 s. A key is printed once, on stdout. The service asks for keys if API_KEYS=required (docs/keys.md).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        settings = Settings.from_env()
        redis_url = settings.redis_url or f"unix://{EMBEDDED_REDIS}"
        client = connect(redis_url, timeout_s=_REDIS_TIMEOUT_S)
    except SettingError as error:
        return _complain(str(error), IMPOSSIBLE)
    except ValueError as error:  # only the Redis client finds an invalid port, for example
        return _complain(f"REDIS_URL is invalid: {str(error).rstrip('.')}.", IMPOSSIBLE)
    command = KeyCommand(ApiKeyStore(client, Keys(settings.key_prefix)), settings.served)
    try:
        return command.run(options)
    except ClientError as error:
        return _complain(error.message, REFUSED)
    except BrokerUnavailable as error:
        place = f"REDIS_URL is {masked(redis_url)}."
        if not settings.redis_url:
            place = (
                f"REDIS_URL is not set, and the Redis of `make serve` is at {redis_url}: start `make serve`."
            )
        return _complain(f"{error.detail} {place}", IMPOSSIBLE)
    finally:
        client.close()


@dataclass(frozen=True)
class KeyCommand:
    """The command's verbs. Every method raises BrokerUnavailable, and ClientError for what is refused."""

    store: ApiKeyStore
    expected_models: tuple[str, ...]
    """Those that the settings name, announced or not."""

    def run(self, options: argparse.Namespace) -> int:
        """Do what the command line says."""
        match options.verb:
            case "add":
                return self.add(options.name, _given(options))
            case "list":
                return self.show()
            case "change":
                return self.change(options.name, _given(options))
            case "rotate":
                return self.rotate(options.name, keep_old_s=options.keep_old)
        self.store.revoke(options.name)
        _print(f"{options.name} is revoked: after 2 s no process accepts it.")
        return DONE

    def add(self, name: str, fields: dict[str, Any]) -> int:
        """Store a new key, and print it."""
        now = self.store.now()
        text, stored = secret.fresh(now)
        self.store.add(_checked(ApiKey(name=name, secrets=(stored,), created_at=now), fields))
        _print(text)
        self._warn_of_unknown(fields)
        return DONE

    def show(self) -> int:
        """Print a line for each key; no secret is in it."""
        keys, used_at, now = self.store.all(), self.store.used_at(), self.store.now()
        for key in keys:
            _print(_line(key, used_at.get(key.name), now))
        if not keys:
            _print("No API keys.")
        return DONE

    def change(self, name: str, fields: dict[str, Any]) -> int:
        """Change what a key may, and print its line."""
        if not fields:
            raise ClientError("Nothing to change: give --rate, --burst, --jobs, --weight, and so on.")
        changed = self.store.change(name, lambda key: _checked(key, fields))
        _print(_line(changed, self.store.used_at().get(name), self.store.now()))
        self._warn_of_unknown(fields)
        return DONE

    def _warn_of_unknown(self, fields: dict[str, Any]) -> None:
        """Say on stderr which of the models nobody knows: a typo, or one that is still to come."""
        if not fields.get("models"):
            return
        known = self.store.models() | {*self.expected_models}
        unknown = [name for name in fields["models"] if name not in known]
        if unknown:
            names, available = ", ".join(map(repr, unknown)), ", ".join(sorted(known))
            models, them = ("models", "them") if len(unknown) > 1 else ("model", "it")
            text = f"Warning: unknown {models} {names}. Known: {available}. The key may use {them}"
            _complain(f"{text} once announced.", DONE)

    def rotate(self, name: str, *, keep_old_s: float) -> int:
        """Give a key a new secret, and print it; the old one works for so long."""
        now = self.store.now()
        text, stored = secret.fresh(now)

        def rotated(key: ApiKey) -> ApiKey:
            until = now + keep_old_s
            old = [
                msgspec.structs.replace(each, valid_until=until, set_at=now)
                for each in key.secrets
                if keep_old_s and not (each.valid_until and each.valid_until <= now)
            ]
            # Of several rotations in a row the last that was current works on.
            return msgspec.structs.replace(key, secrets=(stored, *old[:1]))

        self.store.change(name, rotated)
        _print(text)
        return DONE


def _checked(key: ApiKey, fields: dict[str, Any]) -> ApiKey:
    """The key with these fields, which fit together. Raises ClientError."""
    made = msgspec.structs.replace(key, **fields)
    if "burst" in fields:
        made = msgspec.structs.replace(made, is_burst_given=True)
    # Also compared: a record may be older than the field that says whether its burst was given.
    is_default = not key.is_burst_given and key.burst in (0, _default_burst(key.rate))
    if made.rate and is_default and not made.is_burst_given:
        made = msgspec.structs.replace(made, burst=_default_burst(made.rate))
    if not made.rate and "burst" in fields and made.burst:
        raise ClientError("--burst needs --rate: it is how many pictures may come at once after a pause.")
    if not made.rate:
        made = msgspec.structs.replace(made, burst=0, is_burst_given=False)
    return made


def _default_burst(rate: float) -> int:
    """The pictures of one second."""
    return max(1, round(rate))


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """The fields that the command line names."""
    names = ("rate", "burst", "jobs", "weight", "priority", "models", "may")
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _line(key: ApiKey, used_at: float | None, now: float) -> str:
    rate = f"{key.rate:g}/s burst {key.burst}" if key.rate else "any rate"
    jobs = f"{key.jobs} jobs" if key.jobs else "any jobs"
    old = [each for each in key.secrets[1:] if each.valid_until > now]
    parts = [
        key.name,
        f"bw_{key.secrets[0].id}_***",
        f"since {_when(key.created_at)}",
        f"used {_when(used_at) if used_at else '-'}",
        rate,
        jobs,
        f"weight {key.weight}",
        f"priority {key.priority}",
        f"models {','.join(key.models) or 'all'}",
        f"may {','.join(key.may)}",
        *(f"bw_{each.id}_*** until {_when(each.valid_until)}" for each in old),
    ]
    return "  ".join(parts)


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m web.keys",
        description="Add, list, change, rotate and revoke API keys.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, about in (
        ("add", "make a key and print it"),
        ("list", "print a line for each key; never its secret"),
        ("change", "change what a key may"),
        ("rotate", "give a key a new secret and print it"),
        ("revoke", "remove a key for good"),
    ):
        sub = verbs.add_parser(verb, help=about, description=about)
        if verb != "list":
            sub.add_argument(
                "name", metavar="NAME", type=_name, help="a-z, 0-9, _ and -, at most 32 characters"
            )
        if verb in ("add", "change"):
            _add_fields(sub)
        if verb == "rotate":
            sub.add_argument(
                "--keep-old",
                metavar="SECONDS",
                type=_bounded(0, _MOST_S),
                default=0.0,
                help="for how long the old secret keeps working (default: 0)",
            )
    return parser


def _add_fields(parser: argparse.ArgumentParser) -> None:
    for option, metavar, kind, about in (
        ("--rate", "PICTURES", _rate, "pictures a second (0: no limit)"),
        (
            "--burst",
            "N",
            _whole(1, _MOST),
            "pictures at once after a pause (default: the pictures of one second)",
        ),
        ("--jobs", "N", _whole(0, _MOST), "unfinished jobs, all models together (0: no limit)"),
        ("--weight", "PERCENT", _whole(1, _MOST_WEIGHT), "its share relative to other keys (default: 100)"),
        ("--models", "A,B", _models, "the models that it may use, or all (default: all)"),
        ("--may", "RIGHTS", _rights, f"its rights: {', '.join(RIGHTS)}, or both (default: predict)"),
    ):
        parser.add_argument(option, metavar=metavar, type=kind, help=about)
    parser.add_argument(
        "--priority", choices=PRIORITIES, help="the highest priority it may ask for (default: normal)"
    )


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a valid name: a-z, 0-9, _ and -, at most 32 characters"
        )
    return text


def _models(text: str) -> tuple[str, ...]:
    if text == "all":
        return ()
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if not MODEL_NAME.fullmatch(name):
            raise argparse.ArgumentTypeError(f"{name!r} is not a valid model name")
    return names


def _rights(text: str) -> tuple[str, ...]:
    rights = tuple(dict.fromkeys(right.strip() for right in text.split(",")))
    for right in rights:
        if right not in RIGHTS:
            raise argparse.ArgumentTypeError(f"{right!r} is not a right: choose from {', '.join(RIGHTS)}")
    return rights


def _bounded(low: float, high: float) -> Any:  # noqa: ANN401 - argparse takes a callable
    def read(text: str) -> float:
        value = math.nan
        with contextlib.suppress(ValueError):
            value = float(text)
        if not low <= value <= high:  # NaN too
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:,.0f} to {high:,.0f}")
        return value

    return read


def _rate(text: str) -> float:
    rate: float = _bounded(0, _MOST)(text)
    if 0 < rate < _LEAST_RATE:
        raise argparse.ArgumentTypeError(f"{text} is less than {_LEAST_RATE:f} pictures a second")
    return rate


def _whole(low: int, high: int) -> Any:  # noqa: ANN401 - argparse takes a callable
    def read(text: str) -> int:
        value = low - 1
        with contextlib.suppress(ValueError):
            value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low:,} to {high:,}")
        return value

    return read


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _complain(text: str, status: int) -> int:
    sys.stderr.write(f"{text}\n")
    return status
