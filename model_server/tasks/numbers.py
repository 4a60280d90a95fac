"""What tasks ask of outputs that are plain numbers.

Owns the refusal of numbers that are not finite, which JSON has no way to write.
"""

import numpy as np
from numpy.typing import NDArray

from broker.errors import InferenceFailed


def finite(output: NDArray[np.float32]) -> NDArray[np.float32]:
    """The output itself. Raises InferenceFailed if one of its numbers is not finite."""
    if not np.isfinite(output).all():
        raise InferenceFailed("The network's output for this picture is not finite.")
    return output
