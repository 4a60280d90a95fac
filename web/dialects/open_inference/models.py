"""The models as the protocol asks for them: one by its name and version, all, and whether they are ready.

Owns nothing but these questions, which both of the protocol's doors ask: HTTP (routes.py) and gRPC (web/rpc).
"""

from broker.errors import NoWorker
from broker.messages import WorkerState
from broker.registry import ModelView
from web.dialects import model_versions
from web.jobs import JobClient


def named(jobs: JobClient, model: str, *, version: str = "", fresh: bool = False) -> ModelView:
    """The model, as it is or was a second ago. Raises UnknownModel, NotFound, NoWorker."""
    jobs.models.require(model)
    view = jobs.registry.models(fresh=fresh).get(model)
    if view is None:
        raise jobs.models.silence(
            model, f"No model server has announced {model} yet; it may still be starting."
        )
    model_versions.require(view, version=version)
    return view


def shown(jobs: JobClient) -> list[ModelView]:
    """All models that people should see."""
    return jobs.models.shown(jobs.registry.models(fresh=True))


def require_any_ready(jobs: JobClient) -> None:
    """Raise NoWorker unless some model can be asked, BrokerUnavailable unless Redis takes jobs.

    Scaled to zero all can be: whoever is not ready does not get the request that would have one started.
    """
    jobs.producer.check_writable()
    if jobs.models.scales_to_zero:
        return
    if not any(view.state is WorkerState.READY for view in shown(jobs)):
        raise NoWorker("No live worker serves any model.")


def require_ready(jobs: JobClient, model: str, *, version: str = "") -> None:
    """Raise NoWorker unless this model can be asked; else as `named` does."""
    view = named(jobs, model, version=version, fresh=True)
    if not jobs.models.can_be_asked(view):
        raise jobs.models.silence(model, view.reason or f"No model server serves {model}.")
