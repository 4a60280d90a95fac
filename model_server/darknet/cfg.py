"""A Darknet .cfg as sections of options, each with its line.

Owns the syntax, and that nothing is overlooked: an option is read, known to matter only in training, or
refused. network.py owns what the options mean.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

MOST_BYTES: Final = 1_000_000
MOST_SECTIONS: Final = 2_000
"""The longest published cfg has 300."""

_WHOLE: Final = re.compile(r"-?[0-9]{1,9}")
_NUMBER: Final = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e-?[0-9]{1,3})?")

_OF_TRAINING: Final = {
    "net": "batch subdivisions momentum decay angle saturation exposure hue learning_rate burn_in policy "
    "max_batches steps scales step scale power gamma time_steps adam b1 b2 eps max_crop min_crop flip aspect "
    "center max_chart_loss mosaic mosaic_bound mixup cutmix label_smooth_eps letter_box optimized_memory "
    "track dynamic_minibatch num_sigmas_reject_badlabels ema_alpha workspace_size_limit_mb try_fix_nan "
    "loss_scale blur gaussian_noise contrastive equidistant_point badlabels_rejection_percentage seq_scales "
    "augment_speed sequential_subdivisions init_sequential_subdivisions sgdr_cycle sgdr_mult",
    # Darknet's own non-maximum suppression among them: model.toml's is used.
    "yolo": "jitter ignore_thresh truth_thresh random iou_thresh cls_normalizer iou_normalizer "
    "obj_normalizer delta_normalizer iou_loss iou_thresh_kind nms_kind beta_nms max max_delta resize "
    "counters_per_class label_smooth_eps focal_loss objectness_smooth",
    "dropout": "probability dropblock dropblock_size_abs",
    "cost": "type scale",
}
"""Options of each kind of section that matter only in training, or only to Darknet's own programs."""

_OF_TRAINING_ANYWHERE: Final = ("stopbackward", "learning_rate_scale", "onlyforward", "burnin_update")


class DarknetError(ValueError):
    """A cfg or its weights can't be used; the message names the place."""


@dataclass(slots=True)
class Section:
    """A section of a cfg. `number` counts layers as Darknet does, from 0, and is -1 for [net]."""

    name: str
    number: int
    line: int
    options: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    """The line of each option."""

    def __str__(self) -> str:
        number = f"layer {self.number} " if self.number >= 0 else ""
        return f"{number}[{self.name}] on line {self.line}"

    def refusal(self, reason: str, option: str = "") -> DarknetError:
        """An error that names this section, and the line of one of its options."""
        where = f"{self}, {option} on line {self.lines[option]}" if option in self.lines else str(self)
        return DarknetError(f"{where}: {reason}")

    def text(self, option: str, default: str, allowed: tuple[str, ...]) -> str:
        """The option's value, which must be one of the `allowed` words."""
        value = self.options.get(option, default)
        if value not in allowed:
            raise self.refusal(f"{option}={value[:40]} is not one of {', '.join(allowed)}", option)
        return value

    def whole(self, option: str, default: int | None, least: int, most: int) -> int:
        """The option as a whole number within bounds; without a default it is required."""
        value = self.options.get(option, None if default is None else str(default))
        if value is None:
            raise self.refusal(f"{option} is missing")
        if not _WHOLE.fullmatch(value) or not least <= int(value) <= most:
            raise self.refusal(f"{option}={value[:40]} is not a whole number from {least} to {most}", option)
        return int(value)

    def flag(self, option: str, *, default: bool = False) -> bool:
        """The option as 0 or 1."""
        return bool(self.whole(option, int(default), 0, 1))

    def decimal(self, option: str, default: float) -> float:
        """The option as a decimal number."""
        return self.decimals(option)[0] if option in self.options else default

    def decimals(self, option: str) -> list[float]:
        """The option as comma-separated decimal numbers (a trailing comma is allowed, as in Darknet)."""
        values = self.options.get(option, "").rstrip(",").split(",")
        if any(not _NUMBER.fullmatch(value) or abs(float(value)) > 1e9 for value in values):
            raise self.refusal(f"{option} is not a list of numbers", option)
        return [float(value) for value in values]

    def wholes(self, option: str) -> list[int]:
        """The option as comma-separated whole numbers."""
        numbers = self.decimals(option)
        if any(number != int(number) for number in numbers):
            raise self.refusal(f"{option} is not a list of whole numbers", option)
        return [int(number) for number in numbers]

    def allow(self, *used: str) -> None:
        """Refuse an option that is neither used nor known to matter only in training."""
        known = {*used, *_OF_TRAINING_ANYWHERE, *_OF_TRAINING.get(self.name, "").split()}
        for option in self.options:
            if option not in known:
                raise self.refusal(f"the option {option[:40]!r} is not supported here", option)


def read(path: Path) -> list[Section]:
    """The sections of a file, [net] first. Raises DarknetError, OSError."""
    if path.stat().st_size > MOST_BYTES:
        raise DarknetError(f"{path.name} is not a cfg: it has more than {MOST_BYTES} bytes")
    try:
        return parse(path.read_text("utf-8"))
    except UnicodeDecodeError:
        raise DarknetError(f"{path.name} is not a text file") from None


def parse(text: str) -> list[Section]:
    """The sections of a cfg's text, [net] first. Raises DarknetError."""
    sections: list[Section] = []
    for number, line in enumerate(text.split("\n"), 1):
        # As in Darknet, spaces mean nothing, not even inside a value; # and ; begin a comment.
        bare = re.sub(r"\s", "", re.split("[#;]", line, maxsplit=1)[0])
        if not bare:
            continue
        if bare.startswith("["):
            if not bare.endswith("]") or len(bare) > 40:
                raise DarknetError(f"line {number}: {bare[:40]!r} is not the name of a section")
            name = bare[1:-1].lower()
            sections.append(Section("net" if name == "network" else name, len(sections) - 1, number))
        elif not sections:
            raise DarknetError(f"line {number}: there is an option before the first section")
        else:
            _add(sections[-1], bare, number)
    if not sections or sections[0].name != "net":
        raise DarknetError("the first section must be [net]")
    if len(sections) > MOST_SECTIONS:
        raise DarknetError(f"the cfg has {len(sections)} sections; at most {MOST_SECTIONS} are allowed")
    return sections


def _add(section: Section, line: str, number: int) -> None:
    option, equals, value = line.partition("=")
    if not equals or not option:
        raise DarknetError(f"line {number}: {line[:40]!r} is neither a section nor option=value")
    first_value = section.options.setdefault(option, value)
    first_line = section.lines.setdefault(option, number)
    if first_value != value:
        raise DarknetError(f"line {number}: {option[:40]} was {first_value[:40]} on line {first_line}")
