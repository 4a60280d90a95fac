"""`python clients.py CLIENT`: asks with a client of another server, and prints what it was told, as JSON.

Runs in the environment of requirements.txt; imports nothing of the project. What to ask is JSON on stdin: the
service's `url`, the `model`, the `pictures` in base64, its `side` in pixels.
"""

import asyncio
import base64
import io
import json
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

ASKED: dict[str, Any] = {}
PICTURES: list[bytes] = []


def pixels() -> NDArray[np.uint8]:
    """The pictures as a client of Triton fits them: uint8 [n, side, side, 1]."""
    from PIL import Image

    side = ASKED["side"]
    fitted = [np.array(Image.open(io.BytesIO(each)).convert("L").resize((side, side))) for each in PICTURES]
    return np.stack(fitted)[..., None]


def encoded(*, is_binary: bool) -> NDArray[np.object_]:
    """The pictures as elements of BYTES."""
    return np.array([each if is_binary else base64.b64encode(each) for each in PICTURES], object)


def triton() -> dict[str, Any]:
    """Triton's over HTTP: both data types, in JSON and in binary; what it asks first, what is refused."""
    from tritonclient import http
    from tritonclient.utils import InferenceServerException

    model, told = ASKED["model"], {}
    with http.InferenceServerClient(ASKED["url"].removeprefix("http://")) as client:
        told["ready"] = [client.is_server_live(), client.is_server_ready(), client.is_model_ready(model)]
        told["metadata"] = client.get_model_metadata(model)
        told["config"] = client.get_model_config(model)
        told["index"] = client.get_model_repository_index()
        told["statistics"] = client.get_inference_statistics(model)
        for is_binary in (True, False):
            for kind, data in (("UINT8", pixels()), ("BYTES", encoded(is_binary=is_binary))):
                tensor = http.InferInput("image", [*data.shape], kind)
                tensor.set_data_from_numpy(data, binary_data=is_binary)
                output = http.InferRequestedOutput("probabilities", binary_data=is_binary)
                answer = client.infer(model, [tensor], outputs=[output], request_id="mine")
                name = f"{kind} {'binary' if is_binary else 'JSON'}"
                told[name] = answer.as_numpy("probabilities").tolist()
                told["id"] = answer.get_response()["id"]
        best = http.InferRequestedOutput("probabilities", class_count=3)
        told["class_count"] = [
            [str(one, "utf-8") for one in row]
            for row in client.infer(model, [tensor], outputs=[best]).as_numpy("probabilities")
        ]
        told["refused"] = []
        broken = http.InferInput("image", [1], "BYTES")
        broken.set_data_from_numpy(np.array([b"no picture"], object))
        for name, sent in ((model, broken), ("other", tensor)):
            try:
                client.infer(name, [sent])
            except InferenceServerException as error:
                told["refused"].append([error.status(), error.message()])
    return told


def triton_aio() -> dict[str, Any]:
    """Triton's over HTTP with asyncio, without naming an output."""
    import tritonclient.http.aio as http

    async def ask() -> list[list[float]]:
        async with http.InferenceServerClient(ASKED["url"].removeprefix("http://")) as client:
            data = encoded(is_binary=True)
            tensor = http.InferInput("image", [*data.shape], "BYTES")
            tensor.set_data_from_numpy(data)
            answer = await client.infer(ASKED["model"], [tensor])
            found: list[list[float]] = answer.as_numpy("probabilities").tolist()
            return found

    return {"probabilities": asyncio.run(ask())}


def kserve_v2() -> dict[str, Any]:
    """KServe's REST client with version 2 of the protocol."""
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

    url, model = ASKED["url"], ASKED["model"]

    async def ask() -> dict[str, Any]:
        client = InferenceRESTClient(RESTConfig(protocol="v2"))
        data = encoded(is_binary=True)
        tensor = InferInput("image", [*data.shape], "BYTES")
        tensor.set_data_from_numpy(data, binary_data=True)
        request = InferRequest(model_name=model, infer_inputs=[tensor])
        answer = await client.infer(url, request, model_name=model)
        return {
            "ready": [
                await client.is_server_live(url),
                await client.is_server_ready(url),
                await client.is_model_ready(url, model),
            ],
            "probabilities": answer.outputs[0].as_numpy().tolist(),
        }

    return asyncio.run(ask())


def kserve_v1() -> dict[str, Any]:
    """KServe's REST client with version 1 of the protocol: by rows, by columns, as files and as pixels."""
    from kserve import InferenceRESTClient, RESTConfig

    url, model = ASKED["url"], ASKED["model"]
    files = [{"b64": base64.b64encode(each).decode()} for each in PICTURES]

    async def ask() -> dict[str, Any]:
        client = InferenceRESTClient(RESTConfig(protocol="v1"))

        async def infer(body: dict[str, Any]) -> dict[str, Any]:
            answer: dict[str, Any] = await client.infer(url, body, model_name=model)
            return answer

        refused = ""
        try:
            await client.infer(url, {"instances": files}, model_name="other")
        except Exception as error:  # noqa: BLE001 - httpx's, which is here by KServe's choice
            refused = str(error)
        return {
            "ready": await client.is_model_ready(url, model),
            "files": (await infer({"instances": files}))["predictions"],
            "named": (await infer({"instances": [{"image": each} for each in files]}))["predictions"],
            "pixels": (await infer({"instances": pixels().tolist()}))["predictions"],
            "column": (await infer({"inputs": {"image": files}}))["outputs"],
            "refused": refused,
        }

    return asyncio.run(ask())


if __name__ == "__main__":
    ASKED = json.load(sys.stdin)
    PICTURES = [base64.b64decode(each) for each in ASKED["pictures"]]
    named = {"triton": triton, "triton_aio": triton_aio, "kserve_v1": kserve_v1, "kserve_v2": kserve_v2}
    print(json.dumps(named[sys.argv[1]]()))  # noqa: T201 - what it is for
