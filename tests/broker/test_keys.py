"""Names of keys: as documented, and harmless whatever the model is called."""

import pytest

from broker.keys import Keys


def test_the_keys_of_a_model_share_a_slot() -> None:
    keys = Keys("bw:").of("resnet50")
    names = [keys.card, keys.states, keys.workers, keys.queue, keys.polled, keys.bell, keys.attempts]
    names += [keys.dead, keys.claims("w"), keys.result("r"), keys.turns, keys.polled_turns]
    names += [keys.lane("ann@100", polled=polled) for polled in (False, True)]
    assert all(name.startswith("bw:{resnet50}:") for name in names)
    assert len(set(names)) == len(names)


def test_the_prefix_is_free() -> None:
    keys = Keys("other:")
    assert keys.of("m").queue == "other:{m}:queue"
    assert keys.models == "other:models"
    assert keys.results_channel("f") == "other:results:f"


@pytest.mark.parametrize("name", ["", "a b", "A", "a}b", "a/b", "ä", "a\n"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        Keys("bw:").of(name)
