"""`python image_client.py -m MODEL -c CLASSES -u HOST:PORT FOLDER`: classifies as Triton's own example does.

Written for these tests by the logic of image_client.py among the examples of Triton's Python client: what it
reads of the metadata and of the configuration, how it fits a picture by them, how it takes an answer apart.
Runs in the environment of requirements.txt; imports nothing of the project.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tritonclient import http
from tritonclient.utils import triton_to_np_dtype


class Network(NamedTuple):
    """What the example must know of a network."""

    input_name: str
    output_name: str
    datatype: str
    has_channels_first: bool
    height: int
    width: int
    channels: int
    max_batch_size: int


def network_of(metadata: dict[str, Any], config: dict[str, Any]) -> Network:
    """Read them as the example does. Raises ValueError where it would refuse the model."""
    counts = len(metadata["inputs"]), len(metadata["outputs"]), len(config["input"])
    if counts != (1, 1, 1):
        raise ValueError(f"inputs, outputs and configured inputs are {counts}, and not one each")
    (sent,), (got,), (configured,) = metadata["inputs"], metadata["outputs"], config["input"]
    if got["datatype"] != "FP32":
        raise ValueError(f"the output is {got['datatype']}, and not FP32")
    # The first axis is the batch's where the configuration allows batches.
    first = 1 if config["max_batch_size"] > 0 else 0
    if sum(side > 1 for side in got["shape"][first:]) > 1:
        raise ValueError(f"the output is not a vector: {got['shape']}")
    sides = sent["shape"][first:]
    if len(sides) != 3:
        raise ValueError(f"the input has the shape {sent['shape']}")
    if configured["format"] not in ("FORMAT_NHWC", "FORMAT_NCHW"):
        raise ValueError(f"the input's format is {configured['format']}")
    is_first = configured["format"] == "FORMAT_NCHW"
    channels, height, width = sides if is_first else (sides[2], sides[0], sides[1])
    return Network(
        sent["name"],
        got["name"],
        sent["datatype"],
        is_first,
        height,
        width,
        channels,
        config["max_batch_size"],
    )


def fitted(path: Path, network: Network) -> NDArray[Any]:
    """A picture as the example fits it, without a scaling."""
    image = Image.open(path).convert("L" if network.channels == 1 else "RGB")
    pixels = np.array(image.resize((network.width, network.height), Image.Resampling.BILINEAR))
    pixels = pixels.reshape(network.height, network.width, network.channels)
    pixels = pixels.astype(triton_to_np_dtype(network.datatype))
    return pixels.transpose(2, 0, 1) if network.has_channels_first else pixels


def main() -> None:
    """Classify the pictures in one request; print each as `value (index) = label`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", "--model-name", required=True)
    parser.add_argument("-c", "--classes", type=int, default=1)
    parser.add_argument("-u", "--url", default="localhost:8000")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    files = sorted(options.folder.iterdir())
    with http.InferenceServerClient(options.url) as client:
        network = network_of(
            client.get_model_metadata(options.model_name), client.get_model_config(options.model_name)
        )
        if len(files) > max(network.max_batch_size, 1):
            raise ValueError(f"the model takes {network.max_batch_size} pictures at once")
        batch = np.stack([fitted(file, network) for file in files])
        tensor = http.InferInput(network.input_name, [*batch.shape], network.datatype)
        tensor.set_data_from_numpy(batch)
        output = http.InferRequestedOutput(network.output_name, class_count=options.classes)
        found = client.infer(options.model_name, [tensor], outputs=[output]).as_numpy(network.output_name)
    for file, best in zip(files, found, strict=True):
        print(file.name)  # noqa: T201
        for one in best:
            # Elements are bytes, and the example goes through their numbers.
            value, index, label = "".join(chr(each) for each in one).split(":")
            print(f"    {value} ({index}) = {label}")  # noqa: T201
    print("PASS")  # noqa: T201


if __name__ == "__main__":
    main()
