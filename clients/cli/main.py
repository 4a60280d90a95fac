"""The command: options in, a line for each picture out, an exit status.

Owns the exit status: 0 all answered, 1 some failed, 2 nothing could be tried, 130 interrupted, 141 nobody
reads what is printed.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from clients.cli import answer_file, picture_paths, rows
from clients.cli.answer_file import NotAnswers
from clients.cli.arguments import CommandOptions, parse
from clients.cli.streams import Streams
from clients.client import AsyncClient, PictureReply
from clients.errors import AnswerTimeout, BatchwireError, ConnectionFailure, ServiceUnavailable

INTERRUPTED: Final = 130
NOBODY_READS: Final = 141

_WIDEST: Final = 40
"""A column of names is no wider."""

_AWAY: Final = 3
"""The least number of pictures in a row that a service which is away may cost `retry_s` each."""


class CommandRefusal(Exception):
    """Nothing can be tried; the message says why."""


@dataclass(slots=True)
class Tally:
    """What became of the pictures so far."""

    there: int = 0
    """Answered in the file, by an earlier command."""
    answered: int = 0
    failed: int = 0
    unread: int = 0
    """Of those that failed, the files that could not be read: nothing was sent."""
    in_a_row: int = 0
    """How many pictures in a row the service could not take."""

    def count(self, reply: PictureReply) -> None:
        """One more reply."""
        self.answered += reply.answer is not None
        self.failed += reply.error is not None
        self.unread += isinstance(reply.error, OSError)
        away = isinstance(reply.error, ConnectionFailure | ServiceUnavailable | AnswerTimeout)
        self.in_a_row = self.in_a_row + 1 if away else 0

    def text(self, seconds: float) -> str:
        """All of it in a line."""
        there = f", {self.there} already there" if self.there else ""
        rate = f" ({self.answered / seconds:.1f}/s)" if self.answered and seconds >= 1 else ""
        return f"{self.answered} answered, {self.failed} failed{there}, in {seconds:.1f} s{rate}"


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        return asyncio.run(_run(options))
    except (CommandRefusal, NotAnswers) as error:
        sys.stderr.write(f"python -m clients: {error}\n")
        return 2
    except BrokenPipeError:
        # Python would complain when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS
    except KeyboardInterrupt:
        return INTERRUPTED


async def _run(options: CommandOptions) -> int:
    tally = Tally()
    try:
        paths = picture_paths.pictures(options.paths, recursive=options.recursive)
        if not paths:
            raise CommandRefusal(
                "there is no picture here; --recursive looks into folders of folders as well"
            )
        todo = _todo(options, paths, tally)
        if todo:
            await _check_service(options)
        streams = Streams(options.output, len(todo))
    except OSError as error:
        raise CommandRefusal(f"{error.filename}: {error.strerror}") from error
    began_at = time.monotonic()
    with streams:
        try:
            status = await _ask(options, todo, tally, streams)
        except asyncio.CancelledError:
            status = INTERRUPTED
        except BrokenPipeError:
            raise
        except OSError as error:
            streams.complain(f"{options.output or 'stdout'} can't be written: {error.strerror}")
            status = 1
    streams.complain(tally.text(time.monotonic() - began_at))
    left = len(paths) - tally.there - tally.answered - tally.failed
    if status == INTERRUPTED:
        goes_on = "; the same command goes on" if options.output else ""
        streams.complain(f"Interrupted with {left} pictures left{goes_on}.")
    elif status and options.output and tally.unread < tally.failed:
        streams.complain("The same command asks again about what is missing.")
    return status


def _todo(options: CommandOptions, paths: list[str], tally: Tally) -> list[str]:
    """The pictures that the output file has no answer for."""
    if options.output is None:
        return paths
    names = {answer_file.name(path) for path in paths}
    answered = answer_file.resume(options.output, names, options.model)
    todo = [path for path in paths if answer_file.name(path) not in answered]
    tally.there = len(paths) - len(todo)
    return todo


async def _check_service(options: CommandOptions) -> None:
    """Find out before the first picture is sent whether any can be answered. Raises CommandRefusal."""
    try:
        async with AsyncClient(options.url, timeout_s=options.timeout_s, retry_s=0) as client:
            models = await client.models()
    except ValueError as error:
        raise CommandRefusal(str(error)) from error
    except ServiceUnavailable:
        return  # it is there, and pictures are sent again
    except BatchwireError as error:
        if error.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):  # it runs, and is the right one
            raise CommandRefusal(
                f"{error.message} The command takes the key from BATCHWIRE_API_KEY."
            ) from error
        raise CommandRefusal(f"{error.message} Is the service running? --url names another.") from error
    if options.model:
        model = models.named(options.model)
        if model is None:
            available = ", ".join(each.model for each in models.models)
            raise CommandRefusal(f"Unknown model {options.model!r}. Available: {available}")
        if model.state == "failed":
            raise CommandRefusal(f"{options.model} failed to load: {model.reason}")


async def _ask(options: CommandOptions, todo: list[str], tally: Tally, streams: Streams) -> int:
    """Ask about each picture and write what becomes of it; the exit status."""
    _end_like_ctrl_c(signal.SIGTERM)
    width = min(max(map(len, todo), default=0), _WIDEST)
    async with AsyncClient(options.url, timeout_s=options.timeout_s, retry_s=options.retry_s) as client:
        replies = client.predict_many(
            todo, model=options.model, top=options.top, concurrency=options.concurrency
        )
        async with contextlib.aclosing(replies):
            async for reply in replies:
                path = str(reply.picture)
                _write(options, path, width, reply, streams)
                tally.count(reply)
                streams.advance(failed=tally.failed)
                if tally.in_a_row >= max(_AWAY, options.concurrency):
                    streams.complain(f"Stopped: the service took none of the last {tally.in_a_row} pictures.")
                    break
    if tally.failed and tally.failed == tally.unread and not tally.answered and not tally.there:
        return 2
    return int(tally.there + tally.answered < tally.there + len(todo))


def _write(options: CommandOptions, path: str, width: int, reply: PictureReply, streams: Streams) -> None:
    if options.as_json:
        streams.result(answer_file.line(path, reply))
    elif reply.answer is not None:
        streams.result(f"{rows.row(path, width, reply.answer)}\n".encode())
    if reply.error is not None:
        reason = reply.error.strerror if isinstance(reply.error, OSError) else str(reply.error)
        streams.complain(f"{path}: {reason}")


def _end_like_ctrl_c(signum: signal.Signals) -> None:
    task = asyncio.current_task()
    if task is not None:
        with contextlib.suppress(NotImplementedError):  # on Windows, where no signal of others arrives
            asyncio.get_running_loop().add_signal_handler(signum, task.cancel)
