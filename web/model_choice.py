"""Which model answers a request: the one that it names, the default, or the default's fallback.

Owns the choice and its refusals. Prepares no picture and enqueues nothing; jobs.py does.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from broker.clock import RedisClock
from broker.errors import (
    BrokerUnavailable,
    ModelUnavailable,
    NoWorker,
    ServiceError,
    Unavailable,
    UnknownModel,
)
from broker.messages import WorkerState
from broker.registry import ModelView, Registry
from web.keys import access

_RETRY_FAILED_S: Final = 30
"""For programs that retry regardless: only an operator can repair a failed model."""

_REPAIR_FIRST: Final = "Retrying helps only once its operator has repaired it."

_AWAY_S: Final = 60.0
"""So long beyond REQUEST_TIMEOUT_S a model that nobody expects is still shown: its host may start anew."""

_NOTICE_LENGTH: Final = 600
"""Its reason is written for operators, and it travels with each picture."""


@dataclass(frozen=True, slots=True)
class ModelNames:
    """What the settings say of the models: those that are expected, the default, and its fallback."""

    expected: tuple[str, ...]
    default: str
    fallback: str = ""
    """Empty: there is no fallback."""
    scales_to_zero: bool = False
    """A model without a worker is asked all the same: somebody starts one."""


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The model that answers a request."""

    view: ModelView
    asked: ModelView
    """The one that was asked for, whose bounds hold: another, if that failed to load."""
    notice: str = ""
    """Then, why; it belongs into the answer."""


def unavailable(reason: str) -> ModelUnavailable:
    """The refusal of a model that failed to load, for `reason`."""
    end = "" if reason.endswith(".") else "."
    return ModelUnavailable(f"{reason}{end} {_REPAIR_FIRST}", retry_after_s=_RETRY_FAILED_S)


class ModelChooser:
    """The models as this web process knows them."""

    def __init__(
        self,
        registry: Registry,
        clock: RedisClock,
        names: ModelNames,
        *,
        request_timeout_s: float,
        missed: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`missed` is told of each model that is refused because nobody serves it."""
        self.default = names.default
        self.fallback = names.fallback if names.fallback != names.default else ""
        self._expected = names.expected
        self._registry = registry
        self._clock = clock
        self._request_timeout_s = request_timeout_s
        self.scales_to_zero = names.scales_to_zero
        self._missed = missed

    @property
    def expected(self) -> tuple[str, ...]:
        """The models that the settings name."""
        return self._expected

    def can_be_asked(self, view: ModelView) -> bool:
        """Whether a picture for this model is answered, or waits for a worker that somebody starts."""
        if view.state is WorkerState.READY:
            return True
        return self.scales_to_zero and view.own_state is not WorkerState.FAILED

    def expects(self, name: str) -> bool:
        """Whether the settings name it: its model server may still be starting."""
        return name in self._expected

    def shown(self, models: Mapping[str, ModelView]) -> list[ModelView]:
        """Those of `models` that people should see: not what nobody serves any more, or expects.

        Nor what the request's API key may not ask.
        """
        gone_s = self._request_timeout_s + _AWAY_S
        return [
            view
            for name, view in models.items()
            if access.may_ask(name)
            and (
                view.state is not None
                or self.expects(name)
                or view.last_alive > self._clock.of(name).now() - gone_s
                or view.queue_length  # an autoscaler starts a model server for those
            )
        ]

    def unknown(self, name: str, models: Mapping[str, ModelView]) -> UnknownModel | BrokerUnavailable:
        """The refusal of a name that is no model's; it names those that are served or expected.

        A model whose node of a cluster is away is not unknown.
        """
        if name in self._registry.away:
            return self._registry.away[name]
        served = (known for known, view in models.items() if view.own_state is not None)
        known = ", ".join(sorted(each for each in {*served, *self._expected} if access.may_ask(each)))
        return UnknownModel(f"Unknown model {name[:60]!r}. Available: {known}.")

    def known(self, name: str | None) -> str:
        """The model for a request that names `name`, or none, whether it answers or not; empty: unknown."""
        name = name or self.default
        with contextlib.suppress(BrokerUnavailable):
            if name in self._registry.models():
                return name
        return name if self.expects(name) else ""

    def require(self, name: str) -> None:
        """Raise UnknownModel where no model of that name was announced or is expected.

        Raises Forbidden for one that the request's API key may not ask.
        """
        access.require_model(name)
        models = self._registry.models()
        if name not in models and not self.expects(name):
            raise self.unknown(name, models)

    def named(self, name: str, *, is_polled: bool = False, is_step: bool = False) -> ModelView:
        """The model of that name, able to answer.

        Raises UnknownModel, NoWorker, ModelUnavailable, Forbidden; BrokerUnavailable, too, where Redis takes
        no writes.

        An API key that may ask a pipeline may have its steps' models asked: `is_step`. A job that is polled
        waits for a worker, if its card is known: it has the time to start one. So does each where model
        servers are scaled to zero.
        """
        if not is_step and access.KEY.get() is not None:
            access.require_model(name)
        models = self._registry.models()
        view = models.get(name)
        if view is None:
            if self.expects(name):
                raise self.silence(
                    name, f"No model server has announced {name} yet; it may still be starting."
                )
            raise self.unknown(name, models)
        # A pipeline whose step can't be asked says so in its answer.
        if view.own_state is WorkerState.FAILED:
            raise unavailable(view.reason)
        waits = view.own_state is not None or is_polled or self.scales_to_zero
        if not waits and self._clock.of(name).now() - view.last_alive > self._request_timeout_s:
            raise self.silence(name, f"No model server has served {name} for {self._request_timeout_s:g} s.")
        return view

    def silence(self, name: str, message: str) -> Unavailable:
        """The refusal of a model that nobody serves, with this message.

        Where Redis takes no writes it is another: no lease can be renewed, so nobody seems to serve.
        """
        if self._registry.write_refusal:
            return BrokerUnavailable(self._registry.write_refusal, is_refusal=True)
        self._missed(name)
        return NoWorker(message)

    def choose(self, name: str | None, *, is_polled: bool = False) -> ModelChoice:
        """The model for a request that names `name`, or none. Raises as `named` does.

        The fallback answers only for a default that failed to load. A default that is still loading, or whose
        model server is away for a moment, is waited for, and a model that a client names has no fallback.
        Nor does a classifier answer for a detector, whose answers have another form.
        """
        if name:
            view = self.named(name, is_polled=is_polled)
            return ModelChoice(view, view)
        try:
            view = self.named(self.default, is_polled=is_polled)
            return ModelChoice(view, view)
        except ModelUnavailable as failed:
            asked = self._registry.models().get(self.default)
            if not self.fallback or asked is None:
                raise
            try:
                view = self.named(self.fallback, is_polled=is_polled)
            except ServiceError:
                raise failed from None
            if view.card.task != asked.card.task:  # a client that expects boxes can't use classes
                raise
            reason = asked.reason.removeprefix(f"{self.default}: ")
            notice = f"{self.fallback} answers for {self.default}, which failed to load: {reason}"
            return ModelChoice(view, asked, notice[:_NOTICE_LENGTH])

    def answering(self) -> str:
        """The model that answers requests which name none, as things are."""
        try:
            if self.default not in self._registry.models():
                return self.default  # nobody asks it now: it is not to be taken for missed
            return self.choose(None).view.card.model
        except ServiceError:
            return self.default
