"""Which shard a job is in, and which there are: names and numbers alone."""

import uuid
from dataclasses import replace

import pytest

from broker import codec
from broker.errors import MalformedMessage
from broker.keys import Keys, shard_of
from broker.messages import MOST_SHARDS, Card
from broker.shards import ShardMap
from tests.support.fakes import CARD, MODEL, in_shard

KEYS = Keys("bw:")


@pytest.mark.parametrize("shard", [None, 0, 1, MOST_SHARDS - 1])
def test_an_id_says_its_shard_and_keeps_its_last_48_bits(shard: int | None) -> None:
    for _ in range(100):
        drawn = str(uuid.uuid4())
        job_id = in_shard(drawn, shard)
        assert shard_of(job_id) == shard
        assert job_id[-12:] == drawn[-12:]
        assert (uuid.UUID(job_id).version, uuid.UUID(job_id).variant) == (8, uuid.RFC_4122)


@pytest.mark.parametrize(
    "job_id", [str(uuid.UUID(int=3 << 76, version=4)), "", "a", "x" * 14 + "8" + "y" * 21]
)
def test_any_other_id_is_of_the_model_s_own_keys(job_id: str) -> None:
    assert shard_of(job_id) is None
    assert KEYS.of(MODEL, job_id) is KEYS.of(MODEL)


def test_a_shard_has_a_tag_of_its_own() -> None:
    job_id = in_shard(str(uuid.uuid4()), 2)
    own = KEYS.of(MODEL)
    assert KEYS.of(MODEL, job_id).queue == "bw:{tiny:2}:queue"
    assert KEYS.result(MODEL, job_id) == f"bw:{{tiny:2}}:result:{job_id}"
    assert KEYS.of(MODEL, job_id) == own.of_shard(2)
    assert own.of_shard(1).of_shard(None) is own


def test_no_shard_s_keys_are_an_api_key_s() -> None:
    assert KEYS.of("key").of_shard(0).polled != KEYS.of_api_key("0").polled


def _card(shards: int, served: int = 1) -> Card:
    return replace(CARD, shards=shards, shards_served=served)


def test_new_jobs_are_spread_over_all_shards_and_over_no_more() -> None:
    shards = ShardMap()
    assert (shards.pick(MODEL), shards.parts(KEYS, MODEL)) == (None, (KEYS.of(MODEL),))
    shards.note([_card(3)])
    assert {shards.pick(MODEL) for _ in range(200)} == {0, 1, 2}
    assert [part.shard for part in shards.parts(KEYS, MODEL)] == [None, 0, 1, 2]


def test_shards_of_an_earlier_setting_are_still_parts_of_the_queue() -> None:
    shards = ShardMap()
    shards.note([_card(1, served=2)])
    assert shards.pick(MODEL) is None
    assert [part.shard for part in shards.parts(KEYS, MODEL)] == [None, 0, 1]


def test_a_card_with_more_shards_than_ids_can_say_is_refused() -> None:
    with pytest.raises(MalformedMessage):
        codec.decode(codec.encode(CARD).replace(b'"shards":1', b'"shards":64'), Card)
