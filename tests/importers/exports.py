"""Networks by PyTorch and PaddlePaddle, exported, with what those libraries give for the same pictures.

A program of its own, run by the Python of tests/importers/requirements.txt: `exports.py KIND FOLDER`. It uses
nothing of Batchwire. FOLDER has `pictures.npy`, uint8 (N, height, width, channels), where a kind needs them.
"""

import os
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
"""ImageNet's, as torchvision's tutorials have them: of pixels in 0..1."""


def densenet(folder: Path) -> None:
    """DenseNet121 of PyTorch as ONNX, and what PyTorch gives for FOLDER/photos; any number of pictures.

    Its weights are random, since PyTorch's own may not be had; its statistics and its last layer are fitted
    to the photos, so that they get different answers.
    """
    import torch
    from PIL import Image

    paths = sorted((folder / "photos").iterdir())
    photos = torch.from_numpy(np.concatenate([_prepared(Image.open(path).convert("RGB")) for path in paths]))
    torch.manual_seed(4)
    network = _densenet121()
    with torch.no_grad():
        network(photos)
        network.eval()
        features, last = network[:-1](photos), network[-1]
        last.bias.copy_(-last(features).mean(0))
        scale = 4 / last(features).std()
        last.weight.mul_(scale)
        last.bias.mul_(scale)
    torch.onnx.export(
        network,
        (torch.zeros(2, 3, 224, 224),),
        folder / "densenet121.onnx",
        dynamic_shapes=({0: "batch"},),
        external_data=True,
    )
    with torch.no_grad():
        rows = [network(photo[None]).softmax(1).numpy() for photo in photos]
    np.save(folder / "densenet.npy", np.concatenate(rows))


def _densenet121() -> Any:  # noqa: ANN401 - a torch.nn.Sequential
    """Huang et al. 2017, table 1: the layers of torchvision's, without its package.

    The builds of that for CPUs and for GPUs do not mix, and its weights are not needed here.
    """
    from torch import cat, nn

    def normal(channels: int) -> Any:  # noqa: ANN401
        return nn.BatchNorm2d(channels, momentum=1)  # one pass in training sets its statistics

    class Dense(nn.Module):  # type: ignore[misc] # PyTorch is not in the environment that is checked
        """A bottleneck and a convolution, whose 32 channels join what came in."""

        def __init__(self, channels: int) -> None:
            super().__init__()
            self.steps = nn.Sequential(
                *(normal(channels), nn.ReLU(), nn.Conv2d(channels, 128, 1, bias=False)),
                *(normal(128), nn.ReLU(), nn.Conv2d(128, 32, 3, padding=1, bias=False)),
            )

        def forward(self, given: Any) -> Any:  # noqa: ANN401
            return cat([given, self.steps(given)], 1)

    layers = [nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), normal(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    channels = 64
    for block in (6, 12, 24, 16):
        layers += [Dense(channels + 32 * number) for number in range(block)]
        channels += 32 * block
        layers += [normal(channels), nn.ReLU()]
        if block != 16:
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)]
    return nn.Sequential(*layers)


def _prepared(photo: Any) -> Array:  # noqa: ANN401
    """Torchvision's Resize(255), CenterCrop(224), ToTensor and Normalize, by Pillow and NumPy."""
    short = min(photo.size)
    resized = photo.resize([int(255 * side / short) for side in photo.size], 3)  # bicubic
    left, top = (round((side - 224) / 2) for side in resized.size)
    pixels = np.asarray(resized.crop((left, top, left + 224, top + 224)), np.float32) / 255
    return np.asarray(((pixels - MEAN) / STD).transpose(2, 0, 1)[None], np.float32)


def fixed(folder: Path) -> None:
    """A small network in ONNX that was exported for one picture, and what ONNX Runtime gives for each."""
    import onnxruntime
    import torch

    torch.manual_seed(1)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, stride=2),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(6 * 7 * 9, 5),
        torch.nn.Sigmoid(),
    ).eval()
    path = folder / "fixed.onnx"
    torch.onnx.export(network, (torch.zeros(1, 3, 16, 20),), path, external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    numbers = (np.load(folder / "pictures.npy").transpose(0, 3, 1, 2) / 255).astype(np.float32)
    np.save(
        folder / "fixed.npy", np.concatenate([session.run(None, {name: each[None]})[0] for each in numbers])
    )


def small(folder: Path) -> None:
    """A small network whose logits differ with every pixel, as ONNX and for torch.jit.load."""
    import torch

    torch.manual_seed(5)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 7, stride=5),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 16, 5, stride=3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 14 * 14, 10),
    ).eval()
    with torch.no_grad():
        network[-1].weight.mul_(20)
    sample = torch.zeros(2, 3, 224, 224)
    torch.jit.trace(network, sample).save(str(folder / "mine.pt"))
    dynamic = ({0: "batch"},)
    torch.onnx.export(network, (sample,), folder / "small.onnx", dynamic_shapes=dynamic, external_data=False)


def torchvision(folder: Path) -> None:
    """The pixels of torchvision's published transforms of FOLDER/photos, before they become numbers."""
    from torchvision import transforms

    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.PILToTensor()]
    _save_pixels(folder, "torchvision", transforms.Compose(steps))


def timm(folder: Path) -> None:
    """The same of timm's, with bicubic and crop_pct 0.875 as most of its networks have them."""
    from timm.data import create_transform

    prepare = create_transform((3, 224, 224), interpolation="bicubic", crop_pct=0.875, normalize=False)
    _save_pixels(folder, "timm", prepare)


def _save_pixels(folder: Path, name: str, prepare: Any) -> None:  # noqa: ANN401
    from PIL import Image

    paths = sorted((folder / "photos").iterdir())
    pixels = [prepare(Image.open(path).convert("RGB")).numpy().transpose(1, 2, 0) for path in paths]
    np.save(folder / f"{name}.npy", np.stack(pixels))


def without_operators() -> None:
    """Let torchvision be imported beside a PyTorch of another kind: for CPUs, where it is for GPUs.

    Its operators can't be loaded then, and their absence is an error; its transforms of pictures need none.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{name}", "(Tensor dets, Tensor scores, float threshold) -> Tensor"
            )


def paddle(folder: Path) -> None:
    """LeNet (LeCun et al. 1998) for digits by PaddlePaddle, trained a little where MNIST is at hand."""
    os.environ["FLAGS_enable_pir_api"] = "0"  # noqa: SIM112 - its name; so that a .pdmodel is written
    import paddle

    paddle.seed(2)
    network = paddle.vision.models.LeNet()
    mnist = folder / "mnist.npz"
    if mnist.is_file():
        _train(network, mnist)
    network.eval()
    network = paddle.nn.Sequential(network, paddle.nn.Softmax())
    network.eval()
    given = paddle.static.InputSpec([None, 1, 28, 28], "float32", "picture")
    paddle.jit.save(network, str(folder / "lenet" / "inference"), input_spec=[given])
    numbers = (np.load(folder / "pictures.npy").transpose(0, 3, 1, 2) / 255).astype(np.float32)
    loaded = paddle.jit.load(str(folder / "lenet" / "inference"))
    loaded.eval()
    np.save(folder / "paddle.npy", loaded(paddle.to_tensor(numbers)).numpy())


def _train(network: Any, mnist: Path) -> None:  # noqa: ANN401
    import paddle

    with np.load(mnist, allow_pickle=False) as data:
        pictures = (data["x_train"][:12_800, None] / 255).astype(np.float32)
        labels = data["y_train"][:12_800].astype(np.int64)
    adam = paddle.optimizer.Adam(parameters=network.parameters())
    for at in range(0, len(pictures), 64):
        logits = network(paddle.to_tensor(pictures[at : at + 64]))
        loss = paddle.nn.functional.cross_entropy(logits, paddle.to_tensor(labels[at : at + 64]))
        loss.backward()
        adam.step()
        adam.clear_grad()


KINDS: Final = {
    "densenet": densenet,
    "fixed": fixed,
    "paddle": paddle,
    "small": small,
    "timm": timm,
    "torchvision": torchvision,
}

if __name__ == "__main__":
    if sys.argv[1] in ("timm", "torchvision"):
        without_operators()
    KINDS[sys.argv[1]](Path(sys.argv[2]))
