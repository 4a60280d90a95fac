"""Waits until the service is up, and words what the terminal says then.

Owns polling `/models` from outside, as a client would, and the text of the ready line.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, Final

from broker.errors import BrokerUnavailable
from broker.registry import Registry

_LOOK_S: Final = 0.25
_REMIND_S: Final = 20.0
_SETTLED: Final = ("ready", "failed")
_ABSENT: Final = "no worker"

_KNOWN_S: Final = 1.0
"""Until every web process knows what one of them has said: so old may their snapshots be
(broker/registry.py). A request that came at once was 503 `no_worker` now and then."""

_SAMPLES: Final = {"digits": "docs/digit-7.png"}
"""The project's own sample images, for models that need a certain kind."""


def wait(
    url: str,
    models: tuple[str, ...],
    *,
    say: Callable[[str], None],
    running: Callable[[], bool],
    registry: Registry | None = None,
) -> dict[str, dict[str, Any]] | None:
    """Poll until every model is ready or has failed; return each model's card. None: `running` is over.

    Not waited for: a pipeline whose steps ask models that are not among these, and that nobody else serves.
    With a `registry` the cards are Redis' own: `/models` asks for an API key, and here is none.
    """
    remind_at = time.monotonic() + _REMIND_S
    while running():
        cards = _cards(url) if registry is None else _cards_of(registry, url)
        states = {name: str(cards.get(name, {}).get("state", "starting")) for name in models}
        if all(state in _SETTLED or _elsewhere(name, cards, models) for name, state in states.items()):
            time.sleep(_KNOWN_S)
            return {name: cards[name] for name in models}
        if time.monotonic() >= remind_at:
            remind_at += _REMIND_S
            waiting = ", ".join(
                f"{name} ({state})" for name, state in states.items() if state not in _SETTLED
            )
            reasons = [cards[name]["reason"] for name in models if cards.get(name, {}).get("reason")]
            say(" ".join([f"Still waiting for {waiting}; the logs are in var/log.", *reasons]))
        time.sleep(_LOOK_S)
    return None


def announcement(
    url: str,
    cards: dict[str, dict[str, Any]],
    default: tuple[str, str],
    *,
    seconds: float,
    grpc_port: int = 0,
    has_keys: bool = False,
) -> str:
    """What the terminal says once everything has settled: the ready line, each model, a curl to try.

    `default` is the default model and its fallback, which may be empty; a `grpc_port` of 0: there is no gRPC.
    """
    model, fallback = default
    ready = [name for name, card in cards.items() if card["state"] == "ready"]
    width = max(len(name) for name in cards)
    grpc = f" (gRPC: port {grpc_port})" if grpc_port else ""
    lines = [f"Batchwire is ready on {url}{grpc} after {seconds:.0f} s."]
    if not ready:
        have_failed = all(card["state"] == "failed" for card in cards.values())
        could = "could be loaded" if have_failed else "can answer yet"
        lines = [f"Batchwire answers on {url}, but no model {could}."]
    named = [name for name in cards if name != fallback]
    lines += [f"  {name:<{width}}  {_about(name, card, named)}" for name, card in cards.items()]
    if cards[model]["state"] == "failed" and fallback in ready:
        lines.append(f"{model} failed to load, so {fallback} answers requests that name no model.")
    if ready:
        asked = next((name for name in ready if name in _SAMPLES), ready[0])
        picture = _SAMPLES.get(asked, "photo.jpg")
        key = '-H "X-API-Key: KEY" ' if has_keys else ""
        lines += ["Try it:", f"  curl -X POST {key}-F image=@{picture} '{url}/predict?model={asked}'"]
        if has_keys:
            lines.append("  The key is what this prints: .venv/bin/python -m web.keys add NAME")
    return "\n".join([*lines, "Ctrl-C stops everything; the logs are in var/log."])


def _about(name: str, card: dict[str, Any], named: list[str]) -> str:
    """A model's state in words; `named` are the models that MODELS names."""
    if card["state"] == "ready":
        return f"ready   ({card['engine']} {card['precision']}, weights: {card['weights']})"
    if card["state"] == "failed":
        return f"FAILED  {card['reason'].removeprefix(f'{name}: ')}"
    served = ",".join(dict.fromkeys([*named, *_steps(card)]))
    return f"WAITS   {card['reason']} Name them in MODELS: MODELS={served}, or serve them on another host."


def _steps(card: dict[str, Any]) -> list[str]:
    """The models that a pipeline's steps ask, each once."""
    return list(dict.fromkeys(step["model"] for step in card.get("steps") or ()))


def _elsewhere(name: str, cards: dict[str, dict[str, Any]], models: tuple[str, ...]) -> bool:
    """Whether a pipeline runs, but lacks models that only another host could serve."""
    card = cards.get(name, {})
    if card.get("state") != _ABSENT or not card.get("reason"):  # without a reason it has no worker itself
        return False
    missing = [step for step in _steps(card) if cards.get(step, {}).get("state", _ABSENT) == _ABSENT]
    return any(step not in models for step in missing)


def _cards_of(registry: Registry, url: str) -> dict[str, dict[str, Any]]:
    """The same from Redis, once the web tier answers."""
    try:
        with _opener().open(f"{url}/healthz", timeout=2):
            views = registry.models(fresh=True)
    except (urllib.error.URLError, OSError, BrokerUnavailable):
        return {}
    return {
        name: {
            "state": view.state.value if view.state else _ABSENT,
            "reason": view.reason,
            "engine": view.card.engine,
            "precision": view.card.precision,
            "weights": view.card.weights,
            "steps": [{"model": step.model} for step in view.card.steps],
        }
        for name, view in views.items()
    }


def _opener() -> urllib.request.OpenerDirector:
    # The service is on this machine: a proxy from the environment must not be asked.
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _cards(url: str) -> dict[str, dict[str, Any]]:
    try:
        with _opener().open(f"{url}/models", timeout=2) as response:
            return {card["model"]: card for card in json.load(response)["models"]}
    except (urllib.error.URLError, OSError, ValueError, KeyError):
        return {}
