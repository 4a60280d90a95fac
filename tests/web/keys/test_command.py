"""`python -m web.keys`: keys are added, listed, changed, rotated and revoked, and each is shown once."""

from pathlib import Path

import pytest
import redis

from broker.api_keys import ApiKey, ApiKeyStore
from broker.keys import Keys
from web.keys import command, secret
from web.keys.command import main


@pytest.fixture(autouse=True)
def _settings(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)


def _run(*arguments: str) -> int:
    return main([*arguments])


def test_a_key_from_its_beginning_to_its_end(
    capsys: pytest.CaptureFixture[str], client: redis.Redis, keys: Keys
) -> None:
    assert _run("list") == 0
    assert capsys.readouterr().out == "No API keys.\n"
    assert _run("add", "ann", "--rate", "2.5", "--jobs", "4", "--models", "digits,resnet50") == 0
    text = capsys.readouterr().out.strip()
    assert secret.id_of(text)
    assert _run("list") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"ann  bw_{secret.id_of(text)}_***  since ")
    assert line.endswith(
        "used -  2.5/s burst 2  4 jobs  weight 100  priority normal  models digits,resnet50  may predict"
    )
    client.hset(keys.api_keys_used, "ann", "1.0")
    assert _run("change", "ann", "--priority", "high", "--models", "all", "--may", "predict,metrics") == 0
    changed = capsys.readouterr().out
    assert "used 1970-01-01T00:00:01+00:00" in changed
    assert changed.endswith("priority high  models all  may predict,metrics\n")
    assert _run("rotate", "ann", "--keep-old", "60") == 0
    rotated = capsys.readouterr().out.strip()
    _run("list")
    line = capsys.readouterr().out
    assert f"bw_{secret.id_of(rotated)}_***  since" in line
    assert f"bw_{secret.id_of(text)}_*** until" in line
    stored = client.hget(keys.api_keys, "ann")
    assert isinstance(stored, bytes)
    for each in (text, rotated):
        assert each.split("_", 2)[2].encode() not in stored
        assert secret.digest(each).hex().encode() in stored
    assert _run("rotate", "ann") == 0
    capsys.readouterr()
    _run("list")
    assert "until" not in capsys.readouterr().out
    assert _run("revoke", "ann") == 0
    assert client.keys("*ann*") == []


def test_a_burst_by_default_follows_the_rate_and_a_given_one_stays(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cases: tuple[tuple[str, tuple[str, ...], str], ...] = (
        ("low", (), "50/s burst 50"),
        ("own", ("--burst", "7"), "50/s burst 7"),
        ("one", ("--burst", "1"), "50/s burst 1 "),
    )
    for name, burst, told in cases:
        assert _run("add", name, "--rate", "1", *burst) == 0
        assert _run("change", name, "--rate", "50") == 0
        assert told in capsys.readouterr().out
    assert _run("change", "own", "--jobs", "3") == 0
    assert "50/s burst 7" in capsys.readouterr().out
    assert _run("change", "own", "--rate", "0") == 0
    assert _run("change", "own", "--rate", "3") == 0
    assert "3/s burst 3" in capsys.readouterr().out


def test_a_record_from_before_bursts_were_told_apart_keeps_one_that_is_no_default(
    client: redis.Redis, keys: Keys, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, burst, told in (("own", 7, "50/s burst 7"), ("low", 1, "50/s burst 50")):
        _, stored = secret.fresh(0.0)
        key = ApiKey(name=name, secrets=(stored,), created_at=0.0, rate=1.0, burst=burst)
        ApiKeyStore(client, keys).add(key)
        assert _run("change", name, "--rate", "50") == 0
        assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("change", "ann", "--rate", "1"), 1, "There is no key 'ann'."),
        (("revoke", "ann"), 1, "There is no key 'ann'."),
        (("change", "ann"), 1, "Nothing to change"),
        (("add", "ann", "--burst", "3"), 1, "--burst needs --rate"),
        (("add", "Ann"), 2, "is not a valid name"),
        (("add", "ann", "--rate", "nan"), 2, "is not a number from 0"),
        (("add", "ann", "--rate", "1e-17"), 2, "is less than 0.000001 pictures a second"),
        (("add", "ann", "--rate", "ten"), 2, "'ten' is not a number from 0 to 1,000,000"),
        (("add", "ann", "--jobs", "1.5"), 2, "'1.5' is not a whole number from 0 to 1,000,000"),
        (("add", "ann", "--may", "everything"), 2, "is not a right: choose from predict, metrics"),
        (("add", "ann", "--models", "Digits"), 2, "is not a valid model name"),
    ],
)
def test_what_is_refused(
    arguments: tuple[str, ...], status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        ended = _run(*arguments)
    except SystemExit as end:  # argparse's own
        ended = int(str(end.code))
    assert ended == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err


def test_a_model_that_nobody_knows_is_warned_of(
    capsys: pytest.CaptureFixture[str], client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELS", "digits")
    client.sadd(keys.models, "announced")
    assert _run("add", "ann", "--models", "digits,announced") == 0
    assert capsys.readouterr().err == ""
    assert _run("change", "ann", "--models", "digits,nosuch") == 0
    assert _run("add", "bob", "--models", "nosuch,neither") == 0
    captured = capsys.readouterr()
    known = "Known: announced, digits. The key may use"
    assert captured.err.splitlines() == [
        f"Warning: unknown model 'nosuch'. {known} it once announced.",
        f"Warning: unknown models 'nosuch', 'neither'. {known} them once announced.",
    ]
    assert secret.id_of(captured.out.splitlines()[-1])


def test_without_redis_url_it_says_to_start_make_serve(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("REDIS_URL")
    monkeypatch.setattr(command, "EMBEDDED_REDIS", tmp_path / "redis.sock")
    assert _run("list") == 2
    assert capsys.readouterr().err.endswith(f"at unix://{tmp_path}/redis.sock: start `make serve`.\n")


def test_a_redis_that_is_away_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:hidden@127.0.0.1:9/0")
    assert _run("list") == 2
    assert "REDIS_URL is redis://:***@127.0.0.1:9/0." in capsys.readouterr().err
