"""`python clients.py CLIENT`: asks with a client of another server, and prints what it was told, as JSON.

Runs in the environment of requirements.txt; imports nothing of the project. What to ask is JSON on stdin: the
service's `url`, the `model`, the `pictures` in base64, and their `pixels` of that `shape`, for what fits
them itself.
"""

import asyncio
import base64
import inspect
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

ASKED: dict[str, Any] = {}
PICTURES: list[bytes] = []

FORMS = [("UINT8", True), ("UINT8", False), ("BYTES", True), ("BYTES", False)]
"""A data type; whether tensors are binary, or JSON."""


def pixels() -> NDArray[np.uint8]:
    """The pictures as a client fits them: uint8 [n, side, side, 1]."""
    return np.frombuffer(base64.b64decode(ASKED["pixels"]), np.uint8).reshape(ASKED["shape"])


def encoded(*, is_binary: bool) -> NDArray[np.object_]:
    """The pictures as elements of BYTES."""
    return np.array([each if is_binary else base64.b64encode(each) for each in PICTURES], object)


def tensor(library: Any, kind: str, *, is_binary: bool) -> Any:  # noqa: ANN401 - the clients have no types
    """The pictures as the input of a request; Triton's clients and KServe's spell it alike."""
    data: NDArray[Any] = pixels() if kind == "UINT8" else encoded(is_binary=is_binary)
    made = library.InferInput("image", [*data.shape], kind)
    made.set_data_from_numpy(data, binary_data=is_binary)
    return made


def named(kind: str, *, is_binary: bool) -> str:
    """The name of an answer among those that are printed."""
    return f"{kind} {'binary' if is_binary else 'JSON'}"


async def value_of(told: Any) -> Any:  # noqa: ANN401
    """What a call of either client of Triton's returned."""
    return await told if inspect.isawaitable(told) else told


async def facts(client: Any) -> dict[str, Any]:  # noqa: ANN401
    """What a client of Triton's asks beside pictures."""
    model = ASKED["model"]
    calls = {
        "ready": [client.is_server_live(), client.is_server_ready(), client.is_model_ready(model)],
        "unknown": [client.is_model_ready("other")],
        "server": [client.get_server_metadata()],
        "metadata": [client.get_model_metadata(model)],
        "config": [client.get_model_config(model)],
        "index": [client.get_model_repository_index()],
        "statistics": [client.get_inference_statistics(model), client.get_inference_statistics()],
    }
    return {name: [await value_of(each) for each in told] for name, told in calls.items()}


async def answers(client: Any, library: Any) -> dict[str, Any]:  # noqa: ANN401
    """The probabilities in each form, and with each option; the best classes."""
    model, found, ids = ASKED["model"], {}, []
    for kind, is_binary in FORMS:
        output = library.InferRequestedOutput("probabilities", binary_data=is_binary)
        answer = await value_of(
            client.infer(
                model, [tensor(library, kind, is_binary=is_binary)], outputs=[output], request_id="mine"
            )
        )
        found[named(kind, is_binary=is_binary)] = answer.as_numpy("probabilities").tolist()
        ids.append(answer.get_response()["id"])
    pictures = [tensor(library, "BYTES", is_binary=True)]
    version = (await value_of(client.get_model_metadata(model)))["versions"][0]
    for name, options in {
        "no output named": {},
        "gzip": {"request_compression_algorithm": "gzip", "response_compression_algorithm": "gzip"},
        "deflate": {"request_compression_algorithm": "deflate", "response_compression_algorithm": "deflate"},
        "version": {"model_version": version},
        "timeout": {"timeout": 20_000_000, "priority": 1},
    }.items():
        answer = await value_of(client.infer(model, pictures, **options))
        found[name] = answer.as_numpy("probabilities").tolist()
    best = {}
    for is_binary in (True, False):
        output = library.InferRequestedOutput("probabilities", binary_data=is_binary, class_count=3)
        answer = await value_of(client.infer(model, pictures, outputs=[output]))
        rows = answer.as_numpy("probabilities").tolist()
        best[named("BYTES", is_binary=is_binary)] = [
            [str(one, "utf-8") if isinstance(one, bytes) else one for one in row] for row in rows
        ]
    return {"probabilities": found, "ids": ids, "class_count": best}


async def refusals(client: Any, library: Any) -> dict[str, list[str]]:  # noqa: ANN401
    """Status and message of what can't be answered."""
    from tritonclient.utils import InferenceServerException

    model, found = ASKED["model"], {}
    broken = library.InferInput("image", [1], "BYTES")
    broken.set_data_from_numpy(np.array([b"no picture"], object))
    good = tensor(library, "BYTES", is_binary=True)
    calls: dict[str, Any] = {
        "picture": lambda: client.infer(model, [broken]),
        "model": lambda: client.infer("other", [good]),
        "version": lambda: client.infer(model, [good], model_version="1"),
        "load": lambda: client.load_model(model),
    }
    for name, call in calls.items():
        try:
            await value_of(call())
        except InferenceServerException as error:
            found[name] = [str(error.status()), error.message()]
    return found


async def triton_by(library: Any) -> dict[str, Any]:  # noqa: ANN401
    """All that a client of Triton's is told over HTTP."""
    client = library.InferenceServerClient(ASKED["url"].removeprefix("http://"))
    try:
        return {
            **await facts(client),
            **await answers(client, library),
            "refused": await refusals(client, library),
        }
    finally:
        await value_of(client.close())


def triton() -> Awaitable[dict[str, Any]]:
    """Triton's client; its answers that come later, too."""
    from tritonclient import http

    async def ask() -> dict[str, Any]:
        told = await triton_by(http)
        with http.InferenceServerClient(ASKED["url"].removeprefix("http://"), concurrency=4) as client:
            each = [tensor(http, kind, is_binary=is_binary) for kind, is_binary in FORMS]
            later = [client.async_infer(ASKED["model"], [one]) for one in each]
            for number, answer in enumerate(later):
                found = answer.get_result().as_numpy("probabilities").tolist()
                told["probabilities"][f"later {number}"] = found
        return told

    return ask()


def triton_aio() -> Awaitable[dict[str, Any]]:
    """Triton's client with asyncio."""
    import tritonclient.http.aio as http

    return triton_by(http)


async def kserve_v2() -> dict[str, Any]:
    """KServe's REST client with version 2 of the protocol."""
    import kserve
    from kserve.protocol.infer_type import RequestedOutput

    url, model, found = ASKED["url"], ASKED["model"], {}
    client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2"))
    for kind, is_binary in FORMS:
        for outputs in (None, [RequestedOutput("probabilities", {"binary_data": not is_binary})]):
            request = kserve.InferRequest(
                model_name=model,
                infer_inputs=[tensor(kserve, kind, is_binary=is_binary)],
                request_id="mine",
                request_outputs=outputs,
            )
            answer = await client.infer(url, request, model_name=model)
            name = named(kind, is_binary=is_binary) + (", the other way back" if outputs else "")
            found[name] = answer.outputs[0].as_numpy().tolist()
    broken = kserve.InferInput("image", [1], "BYTES")
    broken.set_data_from_numpy(np.array([b"no picture"], object))
    refused = {}
    for name, sent in (("other", tensor(kserve, "BYTES", is_binary=True)), (model, broken)):
        try:
            await client.infer(url, kserve.InferRequest(name, [sent]), model_name=name)
        except Exception as error:  # noqa: BLE001 - httpx's, which is here by KServe's choice
            refused["model" if name == "other" else "picture"] = str(error)
    return {
        "ready": [
            await client.is_server_live(url),
            await client.is_server_ready(url),
            await client.is_model_ready(url, model),
        ],
        "unknown": await client.is_model_ready(url, "other"),
        "id": answer.id,
        "probabilities": found,
        "refused": refused,
    }


async def kserve_v1() -> dict[str, Any]:
    """KServe's REST client with version 1 of the protocol: by rows, by columns, as files and as pixels."""
    import kserve

    url, model = ASKED["url"], ASKED["model"]
    client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v1"))
    files = [{"b64": base64.b64encode(each).decode()} for each in PICTURES]
    bodies: dict[str, dict[str, Any]] = {
        "files": {"instances": files},
        "named": {"instances": [{"image": each} for each in files]},
        "text": {"instances": [each["b64"] for each in files]},
        "pixels": {"instances": pixels().tolist()},
        "column": {"inputs": {"image": files}},
        "column of pixels": {"inputs": pixels().tolist()},
    }
    found = {}
    for name, body in bodies.items():
        answer = await client.infer(url, body, model_name=model)
        found[name] = answer["outputs" if "inputs" in body else "predictions"]
    refused = {}
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "model": lambda: client.infer(url, bodies["files"], model_name="other"),
        "picture": lambda: client.infer(url, {"instances": [{"b64": "AAAA"}]}, model_name=model),
        "readiness": lambda: client.is_model_ready(url, "other"),
        "explain": lambda: client.explain(url, model, bodies["files"]),
    }
    for name, ask in calls.items():
        try:
            await ask()
        except Exception as error:  # noqa: BLE001 - httpx's, which is here by KServe's choice
            refused[name] = str(error)
    return {"ready": await client.is_model_ready(url, model), "probabilities": found, "refused": refused}


async def kserve() -> dict[str, Any]:
    """KServe's REST client with both versions, in one process: it takes seconds to load."""
    return {"v1": await kserve_v1(), "v2": await kserve_v2()}


if __name__ == "__main__":
    ASKED = json.load(sys.stdin)
    PICTURES = [base64.b64decode(each) for each in ASKED["pictures"]]
    asking = {"triton": triton, "triton_aio": triton_aio, "kserve": kserve}

    async def told_by(client: str) -> dict[str, Any]:
        """What that client was told."""
        return await asking[client]()

    print(json.dumps(asyncio.run(told_by(sys.argv[1]))))  # noqa: T201 - what it is for
