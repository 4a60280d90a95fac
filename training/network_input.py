"""What a network takes: the [input] of a model.toml, whether it is read from one or will be written into one.

Owns nothing else. The numbers of a normalisation are those of the engines. Loads no Keras.
"""

from dataclasses import dataclass
from pathlib import Path

from broker.messages import MEDIAN, InputSpec
from model_server.catalogue.model_spec import KerasFile, ModelSpec, Normalise
from model_server.catalogue.model_toml import Normalisation, Order
from model_server.engines import normalisation
from model_server.tasks import TASKS


@dataclass(frozen=True, slots=True)
class NetworkInput:
    """Size, channels, fit and resampling in `input`; then how uint8 becomes float32, as in ModelSpec."""

    input: InputSpec
    normalise: Normalise
    order: Order = "rgb"

    @property
    def numbers(self) -> normalisation.ChannelNumbers:
        """What makes uint8 pictures what the network takes, as it is served."""
        nameless = KerasFile(file="")
        return normalisation.of(
            ModelSpec(
                "",
                Path(),
                TASKS["classification"],
                nameless,
                self.input,
                self.normalise,
                labels=(),
                top=1,
                order=self.order,
            )
        )

    def toml(self) -> str:
        """The lines of [input]."""
        lines = [
            "[input]",
            f"width = {self.input.width}",
            f"height = {self.input.height}",
            f"channels = {self.input.channels}",
            f'fit = "{self.input.fit}"',
            f"normalise = {self._normalise()}",
        ]
        if self.input.resize:
            lines.append(f"resize = {self.input.resize}")
        defaults = InputSpec(1, 1, 1, self.input.fit)
        for name in ("resample", "library", "decode"):
            if getattr(self.input, name) != getattr(defaults, name):
                lines.append(f'{name} = "{getattr(self.input, name)}"')
        if self.input.border != MEDIAN:
            lines.append(f"border = {self.input.border}")
        if self.order != "rgb":
            lines.append(f'order = "{self.order}"')
        return "".join(f"{line}\n" for line in lines)

    def _normalise(self) -> str:
        if isinstance(self.normalise, Normalisation):
            return f"{{ mean = {list(self.normalise.mean)}, std = {list(self.normalise.std)} }}"
        return f'"{self.normalise}"'
