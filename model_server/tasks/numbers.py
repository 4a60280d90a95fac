"""What tasks ask of outputs that are plain numbers.

Owns the refusal of numbers that are not finite, which JSON has no way to write.
"""

import numpy as np
from numpy.typing import NDArray

from broker.errors import InferenceFailed
from model_server.catalogue.detection_layout import Floats


def finite(output: NDArray[np.float32]) -> NDArray[np.float32]:
    """The output itself. Raises InferenceFailed if one of its numbers is not finite."""
    if not np.isfinite(output).all():
        raise InferenceFailed("The network's output for this picture is not finite.")
    return output


def require_finite(what: str, numbers: Floats) -> None:
    """Raise InferenceFailed if one of the numbers is not finite; `what` they are, in its message."""
    # One number that is not finite makes the sum not finite; checking each number takes four times as long.
    with np.errstate(invalid="ignore", over="ignore"):
        is_finite = np.isfinite(numbers.sum())
    if not is_finite:
        raise InferenceFailed(f"The network's {what} for this picture are not finite.")
