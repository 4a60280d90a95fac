"""Networks by PyTorch and PaddlePaddle, exported, with what those libraries give for the same pictures.

A program of its own, run by the Python of tests/importers/requirements.txt. Each line of its stdin is
[KIND, FOLDER] in JSON, and each line of its stdout what went wrong: an empty string where nothing did. It
uses nothing of Batchwire. FOLDER has `pictures.npy`, uint8 (N, height, width, channels), where a kind needs
them.
"""

import json
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
"""ImageNet's, as torchvision's tutorials have them: of pixels in 0..1."""


def densenet(folder: Path) -> None:
    """A DenseNet of PyTorch as ONNX, and what PyTorch gives for FOLDER/photos; any number of pictures.

    Its weights are random, since PyTorch's own may not be had; its statistics and its last layer are fitted
    to the photos, so that they get different answers.
    """
    import torch
    from PIL import Image

    paths = sorted((folder / "photos").iterdir())
    photos = torch.from_numpy(np.concatenate([_prepared(Image.open(path).convert("RGB")) for path in paths]))
    torch.manual_seed(4)
    network = _densenet((2, 2, 2, 2))
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
        folder / "densenet.onnx",
        dynamic_shapes=({0: "batch"},),
        external_data=True,
    )
    with torch.no_grad():
        rows = [network(photo[None]).softmax(1).numpy() for photo in photos]
    np.save(folder / "densenet.npy", np.concatenate(rows))


def _densenet(blocks: tuple[int, ...]) -> Any:  # noqa: ANN401 - a torch.nn.Sequential
    """Huang et al. 2017, table 1: the layers of torchvision's, without its package; `blocks` layers in each.

    DenseNet121 has 6, 12, 24 and 16 layers, which take half a minute of a core to export and to convert.
    The builds of torchvision for CPUs and for GPUs do not mix, and its weights are not needed here.
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
    for number, block in enumerate(blocks, 1):
        layers += [Dense(channels + 32 * before) for before in range(block)]
        channels += 32 * block
        layers += [normal(channels), nn.ReLU()]
        if number < len(blocks):
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


def paddle_3(folder: Path) -> None:
    """The same without weights of worth, in the format that PaddlePaddle 3 writes by default."""
    import paddle

    network = paddle.nn.Sequential(paddle.vision.models.LeNet(), paddle.nn.Softmax())
    network.eval()
    given = paddle.static.InputSpec([None, 1, 28, 28], "float32", "picture")
    paddle.jit.save(network, str(folder / "lenet" / "inference"), input_spec=[given])


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


YOLO_SIDE: Final = 320


def yolo(folder: Path) -> None:
    """YOLOv8n, YOLOv8n-seg and YOLOv8n-pose as ONNX, with what Ultralytics' code finds in FOLDER/photos.

    Their weights are random, with statistics, scores and boxes fitted to the photos so that some are found.
    """
    os.environ |= {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": str(folder)}
    import torch
    import torchvision
    from ultralytics import YOLO
    from ultralytics.utils.nms import TorchNMS

    if not torchvision.extension._has_ops():
        torchvision.ops.nms = TorchNMS.nms
    paths = sorted((folder / "photos").iterdir())
    for name in ("yolov8n", "yolov8n-seg", "yolov8n-pose"):
        torch.manual_seed(3)
        made = YOLO(f"{name}.yaml")
        _fit_yolo(made.model, paths)
        torch.save({"model": made.model}, folder / f"{name}.pt")
        network = YOLO(folder / f"{name}.pt")
        network.export(format="onnx", imgsz=YOLO_SIDE, simplify=False)
        results = network.predict(
            [str(path) for path in paths],
            imgsz=YOLO_SIDE,
            rect=False,
            conf=0.4,
            iou=0.45,
            max_det=300,
            retina_masks=True,
            verbose=False,
        )
        found: dict[str, Array] = {}
        for path, result in zip(paths, results, strict=True):
            found[f"{path.name} boxes"] = result.boxes.data.numpy()
            if result.masks is not None:
                found[f"{path.name} masks"] = result.masks.data.numpy() > 0
            if result.keypoints is not None:
                found[f"{path.name} points"] = result.keypoints.data.numpy()
        np.savez_compressed(folder / f"{name}.npz", allow_pickle=False, **found)


def _fit_yolo(network: Any, paths: list[Path]) -> None:  # noqa: ANN401
    import torch
    from PIL import Image

    pixels = []
    for path in paths:
        photo = Image.open(path).convert("RGB")
        photo.thumbnail((YOLO_SIDE, YOLO_SIDE))
        padded = Image.new("RGB", (YOLO_SIDE, YOLO_SIDE), (114, 114, 114))
        padded.paste(photo, ((YOLO_SIDE - photo.width) // 2, (YOLO_SIDE - photo.height) // 2))
        pixels.append(np.asarray(padded, np.float32) / 255)
    photos = torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2).copy())
    head = network.model[-1]
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1  # one pass in training sets its statistics
    with torch.no_grad():
        network.train()
        network(photos)
        network.eval()
        # Few probabilities near 0 or 1: of equal ones the order would be anyone's.
        scale = 0.5 / _logits(network, photos).std()
        for scores, boxes in zip(head.cv3, head.cv2, strict=True):
            scores[-1].weight.mul_(float(scale))
            scores[-1].bias.mul_(float(scale))
            boxes[-1].weight.mul_(2)
        shift = -_logits(network, photos).quantile(0.99)
        for scores in head.cv3:
            scores[-1].bias.add_(float(shift))


def _logits(network: Any, photos: Any) -> Any:  # noqa: ANN401
    """The best class's logit of every box."""
    import torch

    output = network(photos)[0]
    output = output[0] if isinstance(output, tuple) else output
    return torch.logit(output[:, 4 : 4 + network.model[-1].nc].amax(1).double())


LRASPP_SIDE: Final = 160


def lraspp(folder: Path) -> None:
    """Torchvision's LRASPP with MobileNetV3 as ONNX, and its classes of the pixels of FOLDER/photos.

    Its weights are random, its statistics fitted to the photos.
    """
    import torch
    from PIL import Image
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    class Maps(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, network: Any) -> None:  # noqa: ANN401
            super().__init__()
            self.network = network

        def forward(self, given: Any) -> Any:  # noqa: ANN401
            return self.network(given)["out"]

    paths = sorted((folder / "photos").iterdir())
    torch.manual_seed(5)
    network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1
    images = [Image.open(path).convert("RGB") for path in paths]
    pixels = [
        np.asarray(image.resize((LRASPP_SIDE, LRASPP_SIDE), Image.Resampling.BILINEAR), np.float32)
        for image in images
    ]
    rows = ((np.stack(pixels) / 255 - MEAN) / STD).astype(np.float32).transpose(0, 3, 1, 2)
    photos = torch.from_numpy(np.ascontiguousarray(rows))
    with torch.no_grad():
        network(photos)
        network = Maps(network).eval()
        maps = network(photos)
        # Each class is the best somewhere.
        network.network.classifier.high_classifier.bias.sub_(maps.mean((0, 2, 3)))
        maps = network(photos)
        # By tracing: the newer exporter takes six times as long, most of it for the hard-swishes.
        torch.onnx.export(
            network, (photos[:2],), folder / "lraspp.onnx", dynamo=False,
            input_names=["picture"], output_names=["maps"],
            dynamic_axes={"picture": {0: "batch"}, "maps": {0: "batch"}},
        )  # fmt: skip
    classes = {}
    for path, image, each in zip(paths, images, maps, strict=True):
        shown = torch.nn.functional.interpolate(each[None], image.size[::-1], mode="bilinear")
        classes[path.name] = shown[0].argmax(0).numpy().astype(np.uint8)
    np.savez_compressed(folder / "lraspp.npz", allow_pickle=False, **classes)


def golden(folder: Path) -> None:
    """Run FOLDER/golden.py on its pictures in a fork of this process, which has PyTorch loaded."""
    child = os.fork()
    if not child:
        status = 1
        try:
            os.chdir(folder)
            sys.path[0], sys.argv = str(folder), ["golden.py", "pictures"]
            runpy.run_path("golden.py", run_name="__main__")
            status = 0
        except BaseException:  # noqa: BLE001 - whatever it is, the fork must not go on as the exporter
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0, "golden.py has failed: the log says why"


KINDS: Final = {
    "densenet": densenet,
    "fixed": fixed,
    "golden": golden,
    "lraspp": lraspp,
    "paddle": paddle,
    "paddle_3": paddle_3,
    "small": small,
    "timm": timm,
    "torchvision": torchvision,
    "yolo": yolo,
}


def _made(kind: str, folder: Path) -> str:
    """Make an export; what went wrong."""
    try:
        if kind in ("golden", "lraspp", "timm", "torchvision", "yolo"):
            without_operators()
        KINDS[kind](folder)
    except Exception:  # noqa: BLE001 - whatever the libraries raise is the test's to show
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what libraries print
        for line in sys.stdin:
            asked, where = json.loads(line)
            print(json.dumps(_made(asked, Path(where))), file=answers, flush=True)
