"""The health files of a model server: one a model, which says until when its worker holds its lease.

Owns the folder var/health. Asks nobody else, and imports next to nothing: a container's health check reads it
every few seconds.
"""

import os
import time
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parents[2] / "var" / "health"


def beat(model: str, *, lease_s: float) -> None:
    """Say that a worker serves `model` and holds its lease for `lease_s` from now."""
    lapses = time.time() + lease_s
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / model).open("a").close()
        os.utime(FOLDER / model, (lapses, lapses))
    except OSError:  # an installation that can't be written goes without this check, not without service
        return


def verdict(now: float) -> str:
    """Why the model server is not well at `now` (Unix time); empty when it is."""
    leases = {path.name: path.stat().st_mtime for path in FOLDER.glob("*")}
    lapsed = [model for model, lapses in sorted(leases.items()) if lapses < now]
    if lapsed:
        return f"the lease has lapsed of: {', '.join(lapsed)}"
    return "" if leases else "no model is served yet"
