"""The operator's command on a real Redis: what it prints, what it refuses, and its exit status."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
from msgspec import structs

from broker import codec
from broker.dead_letters import DeadLetters
from broker.errors import BrokerUnavailable
from broker.keys import Keys
from deploy.serve import __main__ as launcher
from deploy.serve import programs
from model_server.commands import dead_letters
from settings import EMBEDDED_REDIS, PROJECT
from tests.conformance.test_dead_letters import bury, queued
from tests.support.fakes import MODEL, READY, enqueue, job, lease

UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


class Said(NamedTuple):
    """What one run of the command came to."""

    status: int
    out: str
    err: str


@pytest.fixture
def run(
    redis_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Said]:
    """The command, in this process."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("MODELS", "digits")

    def run(*arguments: str, **environment: str) -> Said:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        status = dead_letters.main(arguments)
        return Said(status, *capsys.readouterr())

    return run


def test_without_dead_letters_it_says_so_and_all_is_well(run: Callable[..., Said]) -> None:
    for arguments in (["list"], ["requeue", "--all"], ["drop", "--all"]):
        assert run(*arguments) == (0, "No dead letters of digits.\n", "")


def test_a_line_for_each_of_every_model(run: Callable[..., Said], client: redis.Redis, keys: Keys) -> None:
    known, huge = job(now=1_700_000_000.0), job(now=1e300, shape=(3, 4, 1))
    bury(client, keys, known, huge, reason="it said\n\x1b[2Jno")
    client.rpush(keys.of("digits").dead, b'{"reason":"The job can\'t be read.","job":{"id":"x}')
    said = run("list")
    assert (said.status, said.err) == (0, "")
    unread, first, second = said.out.splitlines()
    size = len(codec.encode_job(known))
    assert re.fullmatch(r"digits  entry-[0-9a-f]{12}  -  -  -  8  -  The job can't be read\.", unread)
    assert first == f"tiny  {known.id}  2023-11-14T22:13:20+00:00  2x2x1  20x10  {size}  -  it said  [2Jno"
    assert second.startswith(f"tiny  {huge.id}  -  4x3x1  20x10  ")
    assert run("list", "--model", MODEL).out.splitlines() == [first, second]


def test_the_request_that_a_job_came_with_is_told(
    run: Callable[..., Said], client: redis.Redis, keys: Keys
) -> None:
    known, odd = (
        structs.replace(job(), request_id="web-7:a/b"),
        structs.replace(job(), request_id="a\n b\x1b[2J"),
    )
    bury(client, keys, known, odd, reason="boom")
    first, second = run("list").out.splitlines()
    assert re.fullmatch(rf"tiny  {known.id}  \S+  2x2x1  20x10  \d+  web-7:a/b  boom", first)
    assert re.fullmatch(rf"tiny  {odd.id}  \S+  2x2x1  20x10  \d+  ab\[2J  boom", second)


def test_requeue_prints_where_each_is_polled(
    run: Callable[..., Said], client: redis.Redis, keys: Keys
) -> None:
    first, second, third = bury(client, keys, job(), job(), job())
    said = run("requeue", third.id, first.id, first.id, ASYNC_TIMEOUT_S="77")
    assert (said.status, said.err) == (0, "")
    pattern = rf"({UUID}) is queued again: /predictions/({UUID})\?model=tiny"
    found = [re.fullmatch(pattern, line) for line in said.out.splitlines()]
    assert [match and match[1] for match in found] == [first.id, third.id]
    assert [match and match[2] for match in found] == [each.id for each in queued(client, keys)]
    assert all(each.deadline == each.accepted_at + 77 for each in queued(client, keys))
    assert [line.split()[1] for line in run("list").out.splitlines()] == [second.id]


@pytest.mark.parametrize("verb", ["requeue", "drop"])
def test_all_are_all_of_the_model_that_was_named(
    run: Callable[..., Said], client: redis.Redis, keys: Keys, verb: str
) -> None:
    bury(client, keys, job(), job())
    other = f'{{"reason":"r","job":{codec.encode_job(job()).decode()}}}'
    client.rpush(keys.of("digits").dead, other)
    said = run(verb, "--all", "--model", MODEL)
    assert (said.status, len(said.out.splitlines())) == (0, 2)
    assert len(queued(client, keys)) == (2 if verb == "requeue" else 0)
    assert client.llen(keys.of("digits").dead) == 1
    assert run(verb, "--all").status == 0
    assert run("list").out == "No dead letters of digits, tiny.\n"


def test_drop_says_what_it_dropped(run: Callable[..., Said], client: redis.Redis, keys: Keys) -> None:
    first, second = bury(client, keys, job(), job())
    assert run("drop", first.id) == (0, f"{first.id} was dropped.\n", "")
    assert [line.split()[1] for line in run("list").out.splitlines()] == [second.id]
    assert queued(client, keys) == []


def test_what_is_refused_is_said_and_the_rest_is_done(
    run: Callable[..., Said], client: redis.Redis, keys: Keys
) -> None:
    client.rpush(keys.of(MODEL).dead, b'{"reason":"r","job":{"id":"x}')
    (good,) = bury(client, keys, job())
    name = run("list").out.split()[1]
    said = run("requeue", "--all")
    assert said.status == 1
    assert said.err.startswith(f"{name} was left unchanged: The job of {name} can't be read, so")
    assert said.out.startswith(f"{good.id} is queued again: ")
    unknown = job().id
    said = run("drop", unknown, name, "--model", MODEL)
    assert said == (1, f"{name} was dropped.\n", f"{unknown} is not a dead letter of tiny.\n")


def test_a_full_queue_refuses_with_words(run: Callable[..., Said], client: redis.Redis, keys: Keys) -> None:
    first, second = bury(client, keys, job(), job())
    enqueue(client, keys, job())
    lease(client, keys).register(replace(READY, rate=0.5))
    said = run("requeue", "--all", QUEUE_LIMIT="2")
    assert said.status == 1
    assert said.out.startswith(f"{first.id} is queued again")
    reason = "2 pictures wait for tiny already; come back in 4 s."
    assert said.err == f"{second.id} was left unchanged: {reason}\n"
    assert len(queued(client, keys)) == 2
    assert [line.split()[1] for line in run("list").out.splitlines()] == [second.id]
    client.delete(keys.of(MODEL).queue, keys.of(MODEL).polled)
    assert run("requeue", second.id, QUEUE_LIMIT="1").status == 0


def test_the_bound_in_megabytes_holds_too(run: Callable[..., Said], client: redis.Redis, keys: Keys) -> None:
    bury(client, keys, *(job(shape=(600, 1000, 1)) for _ in range(2)))
    said = run("requeue", "--all", QUEUE_LIMIT_MB="1")
    assert (said.status, len(queued(client, keys))) == (1, 1)


def test_a_model_that_nobody_serves_is_warned_of(
    run: Callable[..., Said], client: redis.Redis, keys: Keys
) -> None:
    first, second = bury(client, keys, job(), job())
    warning = "no model server serves tiny: the job waits 300 s for one"
    assert warning not in run("requeue", first.id).out
    client.delete(keys.of(MODEL).workers)
    said = run("requeue", second.id)
    assert (said.status, warning in said.out) == (0, True)


def test_a_model_that_there_is_not_is_refused(run: Callable[..., Said]) -> None:
    for name in ("none", "A B"):
        for verb in (["list"], ["requeue", "--all"], ["drop", job().id]):
            assert run(*verb, "--model", name) == (2, "", f"Unknown model {name!r}. Available: digits.\n")


def test_without_redis_it_says_which_one_is_missing(run: Callable[..., Said]) -> None:
    said = run("list", REDIS_URL="redis://:secret@127.0.0.1:9/0")
    assert (said.status, said.out) == (2, "")
    assert "no connection" in said.err
    assert said.err.endswith(" REDIS_URL is redis://:***@127.0.0.1:9/0.\n")


def test_a_redis_that_goes_away_ends_it_at_once(
    run: Callable[..., Said], client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    bury(client, keys, job(), job())

    def away(*_: object, **__: object) -> str:
        raise BrokerUnavailable("Redis can't take a job: it does not answer in time.")

    monkeypatch.setattr(DeadLetters, "requeue", away)
    said = run("requeue", "--all")
    assert (said.status, said.out, len(said.err.splitlines())) == (2, "", 1)
    assert said.err.startswith("Redis can't take a job: it does not answer in time. REDIS_URL is unix://")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("LEASE_S", "0", "LEASE_S='0' is not a number"),
        ("REDIS_URL", "redis://h:65536/0", "REDIS_URL is invalid"),
    ],
)
def test_a_setting_that_can_t_work_is_said_so(
    run: Callable[..., Said], variable: str, value: str, words: str
) -> None:
    said = run("list", **{variable: value})
    assert (said.status, said.out, said.err.startswith(words)) == (2, "", True)


def test_it_finds_the_redis_of_make_serve_by_itself(
    run: Callable[..., Said], redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert programs.redis_url(launcher.VAR) == f"unix://{EMBEDDED_REDIS}"
    monkeypatch.setattr(dead_letters, "EMBEDDED_REDIS", redis_url.removeprefix("unix://"))
    assert run("list", REDIS_URL="").status == 0
    monkeypatch.setattr(dead_letters, "EMBEDDED_REDIS", tmp_path / "redis.sock")
    said = run("list")
    assert said.status == 2
    assert said.err.endswith(f" the Redis of `make serve` is at unix://{tmp_path}/redis.sock.\n")


@pytest.mark.parametrize(
    "arguments", [[], ["bury"], ["list", "x"], ["requeue"], ["drop"], ["requeue", "x", "--all"]]
)
def test_a_command_line_that_says_nothing_clear_is_refused(
    run: Callable[..., Said], capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        run(*arguments)
    assert refused.value.code == 2
    assert capsys.readouterr().err.startswith("usage: python -m model_server dead-letters")


@pytest.mark.slow
def test_it_runs_as_a_command(client: redis.Redis, keys: Keys, run: Callable[..., Said]) -> None:
    (dead,) = bury(client, keys, job())
    command = [sys.executable, "-m", "model_server", "dead-letters"]
    listed = subprocess.run([*command, "list"], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert listed.stdout == run("list").out
    assert dead.id in listed.stdout
    unknown = subprocess.run([*command, "drop", "x"], cwd=PROJECT, capture_output=True, check=False)
    assert unknown.returncode == 1
