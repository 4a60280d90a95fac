"""`python -m tests.settings_page`: write docs/settings.md from the fields of Settings.

Owns the page's groups and the text around its tables. A row is the field's own: variable, default, bound, and
its docstring as the meaning.
"""

import ast
import dataclasses
import itertools
from pathlib import Path
from typing import Final

import settings
from settings import PROJECT, Settings

PAGE: Final = PROJECT / "docs" / "settings.md"
REMEDY: Final = "docs/settings.md is out of date: run `.venv/bin/python -m tests.settings_page`"

_GROUPS: Final = {
    "bind": "Address",
    "redis_url": "Redis",
    "models": "Models",
    "engine": "Inference",
    "queue_limit": "Queues and deadlines",
    "lease_s": "Recovery",
    "api_keys": "Requests",
    "model_servers": "Processes and logs",
}
"""The first field of each group -> the group's heading. A new field joins the group that it stands in."""

_HEAD: Final = """# Settings

Settings are environment variables. Each has a default that works; a variable that is set to an empty value
counts as unset. A value out of bounds stops the start with a message that names the variable, the value and
the bound:

```text
Batchwire can't start: PORT='0' is not a whole number from 1 to 65535.
```
"""

_TAIL: Final = """
## The memory of a picture

A picture of `MAX_PIXELS` needs memory while it is decoded, and a web process decodes as many at once as it
has cores. At 64 megapixels (8,000 x 8,000), prepared for an input of 224 x 224, the peak above the idle
process is:

| picture | MB |
|---|---|
| JPEG, which is decoded smaller | 8 |
| progressive JPEG, colours at full size | 371 |
| GIF, PNG in RGB, 16-bit grey PNG | 252 to 428 |
| PNG in RGBA | 550 |
| PNG with a colour key | 610 to 790 |
| AVIF, HEIC (in a process of its own) | 568 |
| WebP | 980 |
| TIFF, with its process | 820 |
| TIFF in floating point, with its process | 1,010 |

A quarter of `MAX_PIXELS` needs a quarter of it. AVIF, HEIC and TIFF are each decoded in a process
of their own, which takes 0.1 s to start. It ends at 1 GB and 24 bytes a pixel of `MAX_PIXELS`, and after 2 s
of processor time and 0.25 s a megapixel (0.1 s for a TIFF that is not in LZMA).

## Weights of other models

Every model whose source is a `keras_application` has a variable for its weights, `NAME_WEIGHTS`, with the
same values as `RESNET50_WEIGHTS`: `DENSENET121_WEIGHTS` for `densenet121`. Unset: the weights that its
[model.toml](models.md) names.

## docker-compose

`docker-compose.yml` passes on the variables that it names, from your shell or from a file `.env`, and those
in `deploy/weights.env`. A path in `NAME_WEIGHTS` is one in the container: `models/NAME/FILE`. There
`FALLBACK_MODEL` is `photos10`. Compose itself reads the variables below, and those of [bounds, images and
`WEB_EGRESS`](operations.md#docker-compose):

| variable | default | meaning |
|---|---|---|
| `MODELS_DIR` | `./models` | The directory of the host that is mounted as the containers' `models/`. |
| `MODELS_STORE` | unset | The containers' `MODELS_DIR`: a [store](models.md#model-stores). |
| `STORE` | unset | What the build installs to read it: `s3`, `gs` or `hf`. |
| `PUBLISH` | `127.0.0.1` | The address of the host at which the service is published. |
| `STOP_GRACE_PERIOD` | `14s` | The time a container has to stop: at least `REQUEST_TIMEOUT_S` + 4 s. |
"""


def page() -> str:
    """The text of docs/settings.md."""
    meanings = _docstrings()
    lines = []
    for field in dataclasses.fields(Settings):
        if field.name in _GROUPS:
            lines += ["", f"## {_GROUPS[field.name]}", "", "| variable | default | bounds | meaning |"]
            lines += ["|---|---|---|---|"]
        cells = (_default(field.default), field.metadata["bound"].words, meanings[field.name])
        lines.append(f"| `{field.name.upper()}` | {' | '.join(cells)} |")
    return _HEAD + "\n".join(lines) + "\n" + _TAIL


def _default(value: object) -> str:
    if isinstance(value, tuple):
        value = ",".join(value)
    if isinstance(value, float):
        value = f"{value:g}"
    text = str(value).removeprefix(f"{PROJECT}/")
    return f"`{text}`" if text else "unset"


def _docstrings() -> dict[str, str]:
    """Field -> the string after it, on one line. KeyError in `page`: a field has none."""
    module = ast.parse(Path(settings.__file__).read_text("utf-8"))
    (body,) = (
        node.body for node in module.body if isinstance(node, ast.ClassDef) and node.name == "Settings"
    )
    docstrings = {}
    for statement, following in itertools.pairwise(body):
        match statement, following:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                docstrings[name] = " ".join(text.split())
    return docstrings


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
