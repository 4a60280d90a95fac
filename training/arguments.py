"""The command line of `python -m training.retrain`.

Owns its options and their bounds. Loads no TensorFlow.
"""

import argparse
from pathlib import Path
from typing import Final

from broker.keys import MODEL_NAME
from broker.messages import Fit

_EPILOG: Final = """\
FOLDER has a folder of pictures for each class, named by the class; a .zip of such a folder will do.
Pictures that are broken, of a format that is not served, or there twice are named and left out.
exit status: 0 the model is in models/NAME; 2 it could not be made, and nothing was changed.
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m training.retrain`."""
    parser = argparse.ArgumentParser(
        prog="python -m training.retrain",
        description="Make a model of your labelled folders of pictures, ready to be served.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="labelled folders of pictures")
    parser.add_argument("--name", required=True, type=_name, help="the name of the model and of its folder")
    parser.add_argument(
        "--base", metavar="NETWORK", default="MobileNetV2", help="a network of keras.applications"
    )
    parser.add_argument(
        "--weights",
        metavar="imagenet|none|PATH",
        default="imagenet",
        help="initial weights: downloaded; none; those of a .keras network, the base then; a notop .h5",
    )
    parser.add_argument("--size", type=_count, help="side of the pictures (224, or what a .keras takes)")
    parser.add_argument(
        "--fit", type=Fit, choices=[Fit.CROP, Fit.STRETCH, Fit.PAD], help="how pictures are fitted (crop)"
    )
    parser.add_argument(
        "--normalise",
        choices=["none", "unit", "tf", "torch", "caffe"],
        help="for a .keras without model.toml",
    )
    _add_learning(parser)
    parser.add_argument("--top", type=_count, default=5, help="predictions in an answer (5)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same network (0)")
    parser.add_argument("--models", type=Path, default=Path("models"), help="where the folder goes (models)")
    parser.add_argument("--replace", action="store_true", help="replace a model of this name")
    parser.add_argument("--frozen-graph", action="store_true", help="also write NAME.pb and labels.txt")
    return parser


def _add_learning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epochs", type=_count, default=100, help="most epochs of the head (100)")
    parser.add_argument(
        "--fine-tune",
        metavar="EPOCHS",
        type=_count_or_none,
        default=0,
        help="most epochs of the whole network after that (0)",
    )
    parser.add_argument("--batch", type=_count, default=32, help="pictures in a step (32)")
    parser.add_argument(
        "--held-out",
        metavar="SHARE",
        type=_share,
        default=0.2,
        help="share of each class that judges at the end (0.2)",
    )
    parser.add_argument(
        "--validation",
        metavar="SHARE",
        type=_share,
        default=0.1,
        help="share of each class that decides when to stop (0.1)",
    )


def _name(text: str) -> str:
    if not MODEL_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError("a model's name may only have a-z, 0-9, _ and -")
    return text


def _count(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def _count_or_none(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _share(text: str) -> float:
    if not 0 < float(text) <= 0.4:
        raise argparse.ArgumentTypeError("a share must be above 0 and at most 0.4")
    return float(text)
