"""`python -m model_server dead-letters list|requeue|drop`: the operator's command for poison jobs.

Owns the command line, its messages and its exit status. The broker owns what a dead letter is and how its job
goes back into the queue.
"""

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from broker.clock import clock_of
from broker.connection import connect
from broker.dead_letters import DeadLetter, DeadLetters
from broker.errors import BrokerUnavailable, ServiceError, UnknownModel
from broker.keys import Keys
from broker.messages import Pace, WorkerState
from broker.producer import Limits
from broker.registry import ModelView, Registry
from broker.shards import ShardMap
from model_server.commands.terminal import DONE, IMPOSSIBLE, REFUSED, complain, print_line
from settings import EMBEDDED_REDIS, SettingError, Settings, masked

_REDIS_TIMEOUT_S: Final = 10.0
"""All dead letters of a model come in one reply: 13 MB where pictures take 200 KB each."""

_MB: Final = 1024 * 1024

_EPILOG: Final = """\
exit status: 0 success; 1 something was refused, and the rest was done; 2 nothing could be tried.
The command reads the service's settings: give it the same REDIS_URL, KEY_PREFIX, QUEUE_LIMIT and so on.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = _options(arguments)
    try:
        settings = Settings.from_env()
        command = Command(settings)
    except SettingError as error:
        return complain(str(error), IMPOSSIBLE)
    except ValueError as error:  # only the Redis client finds an invalid port, for example
        return complain(f"REDIS_URL is invalid: {str(error).rstrip('.')}.", IMPOSSIBLE)
    try:
        command.choose(options.model)
        if options.verb == "list":
            return command.show()
        return command.apply(options.verb, options.ids)
    except UnknownModel as error:
        return complain(error.message, IMPOSSIBLE)
    except BrokerUnavailable as error:
        place = (
            "REDIS_URL is"
            if settings.redis_url
            else "REDIS_URL is not set, and the Redis of `make serve` is at"
        )
        return complain(f"{error.detail} {place} {masked(_redis_url(settings))}.", IMPOSSIBLE)


class Command:
    """The command on the chosen models' dead letters. Every method raises BrokerUnavailable."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = connect(_redis_url(settings), timeout_s=_REDIS_TIMEOUT_S)
        self._keys = Keys(settings.key_prefix)
        self._models: dict[str, ModelView | None] = {}
        self._shards = ShardMap()

    def choose(self, name: str | None) -> None:
        """Choose the model of that name, or all of them. Raises UnknownModel."""
        clock = clock_of(self._client)
        views = Registry(self._client, self._keys, clock, shards=self._shards).models(fresh=True)
        known = {model: views.get(model) for model in sorted({*views, *self._settings.models})}
        if name is not None and name not in known:
            raise UnknownModel(f"Unknown model {name!r}. Available: {', '.join(known)}.")
        self._models = known if name is None else {name: known[name]}

    def show(self) -> int:
        """Print a line for each dead letter."""
        letters = self._letters()
        for model, letter in letters:
            print_line(_line(model, letter))
        return DONE if letters else self._nothing()

    def apply(self, verb: str, ids: list[str]) -> int:
        """Requeue or drop the dead letters with these ids; without ids, all of them."""
        letters = [(model, letter.id) for model, letter in self._letters()]
        if not letters and not ids:
            return self._nothing()
        status = DONE
        known = {job_id for _, job_id in letters}
        for missing in [job_id for job_id in ids if job_id not in known]:
            status = complain(f"{missing} is not a dead letter of {', '.join(self._models)}.", REFUSED)
        for model, job_id in letters:
            if ids and job_id not in ids:
                continue
            try:
                print_line(self._drop(model, job_id) if verb == "drop" else self._requeue(model, job_id))
            except BrokerUnavailable:
                raise
            except ServiceError as error:
                status = complain(f"{job_id} was left unchanged: {error.detail}", REFUSED)
        return status

    def _letters(self) -> list[tuple[str, DeadLetter]]:
        return [(model, letter) for model in self._models for letter in self._of(model).entries()]

    def _nothing(self) -> int:
        print_line(f"No dead letters of {', '.join(self._models)}.")
        return DONE

    def _requeue(self, model: str, job_id: str) -> str:
        view, timeout_s = self._models[model], self._settings.async_timeout_s
        fresh_id = self._of(model).requeue(job_id, timeout_s=timeout_s, pace=view.pace if view else Pace())
        waits = ""
        if view is None or view.state not in (WorkerState.READY, WorkerState.LOADING):
            waits = (
                f" (no model server serves {model}: the job waits {timeout_s:g} s for one, then is dropped)"
            )
        return f"{job_id} is queued again: /predictions/{fresh_id}?model={model}{waits}"

    def _drop(self, model: str, job_id: str) -> str:
        self._of(model).drop(job_id)
        return f"{job_id} was dropped."

    def _of(self, model: str) -> DeadLetters:
        limits = Limits(
            queue_jobs=self._settings.queue_limit,
            queue_bytes=self._settings.queue_limit_mb * _MB,
            result_ttl_s=self._settings.result_ttl_s,
            key_ttl_s=self._settings.key_ttl_s,
            replicas=self._settings.redis_replicas,
        )
        return DeadLetters(self._client, self._keys, model, limits, shards=self._shards)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m model_server dead-letters",
        description="List, requeue or drop the jobs that were set aside as poison.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, about in (
        ("list", "print a line for each: model, id, accepted, picture, upload, bytes, request, reason"),
        ("requeue", "put jobs back into the queue and print where each can be polled"),
        ("drop", "remove jobs for good"),
    ):
        sub = verbs.add_parser(verb, help=about, description=about)
        sub.add_argument("--model", metavar="NAME", help="only this model's (default: every model's)")
        if verb != "list":
            sub.add_argument("ids", nargs="*", metavar="ID", help="as `list` prints it")
            sub.add_argument("--all", action="store_true", help="all dead letters, instead of IDs")
    options = parser.parse_args(arguments)
    if options.verb != "list" and bool(options.ids) == options.all:
        parser.error(f"{options.verb} takes either IDs or --all")
    return options


def _redis_url(settings: Settings) -> str:
    return settings.redis_url or f"unix://{EMBEDDED_REDIS}"


def _line(model: str, letter: DeadLetter) -> str:
    picture = upload = "-"
    if letter.shape is not None and letter.original_size is not None:
        height, width, channels = letter.shape
        picture = f"{width}x{height}x{channels}"
        upload = "{}x{}".format(*letter.original_size)
    # A reason may contain a network's own error message.
    reason, request = _printable(letter.reason), _printable(letter.request_id).replace(" ", "")
    accepted = _when(letter.accepted_at)
    place = f"{model}  {letter.id}  {accepted}  {picture}  {upload}  {letter.size}"
    return f"{place}  {request or '-'}  {reason or '-'}"


def _printable(text: str) -> str:
    """The text on one line, without control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _when(accepted: float | None) -> str:
    try:
        return (
            "-" if accepted is None else datetime.fromtimestamp(accepted, UTC).isoformat(timespec="seconds")
        )
    except (ValueError, OverflowError, OSError):  # a time outside the calendar
        return "-"
