"""The part of the command line that says where to and in which form: its meaning and its bounds.

Owns what --url, --body, --field, --header, --api-key and --label may be. Raises ValueError, in words for the
user.
"""

import argparse
import os
from pathlib import Path
from string import Template
from urllib.parse import urlsplit

import jmespath
import jmespath.exceptions

from loadtest.sending.messages import Target
from loadtest.sending.target import is_batchwire


def check(found: argparse.Namespace) -> None:
    """Raise ValueError for what the service that --url names would not understand."""
    names_model = is_batchwire(found.url) or "{model}" in found.url or "$model" in found.body
    if found.model != (("", 1.0),) and not names_model and found.body in {"multipart", "raw"}:
        raise ValueError("--model is not used: write {model} into --url, or $model into a --body template")
    if "{model}" in found.url and found.model == (("", 1.0),):
        raise ValueError("--url has {model}: choose one with --model")
    if found.polled and not is_batchwire(found.url):
        raise ValueError("--async is for a Batchwire server: give only its address as --url")


def target(found: argparse.Namespace) -> Target:
    """Read where to and in which form; raise ValueError for what is none."""
    if not _is_address(found.url):
        raise ValueError(f"--url {found.url}: write http://host:port or https://host/path")
    if "@" in urlsplit(found.url).netloc:
        raise ValueError("--url may not have a user or a password: it is written to files. Use --header")
    if not found.field.isprintable():
        raise ValueError("--field has characters that a form field may not have")
    body = found.body
    if body not in {"multipart", "raw"}:
        try:
            body = Path(body).read_text("utf-8")
            Template(body).substitute(image_base64="", name="", model="")
            if "image_base64" not in body:
                raise ValueError("it has no $image_base64, so no picture would be sent")
        except (OSError, UnicodeDecodeError, KeyError, ValueError) as error:
            raise ValueError(
                f"--body {found.body} is not multipart, raw or a file with a template: {error}"
            ) from error
    if found.label:
        try:
            jmespath.compile(found.label).search(None)  # only then is an unknown function reported
        except jmespath.exceptions.JMESPathTypeError:
            pass  # of no answer at all: expected
        except jmespath.exceptions.JMESPathError as error:
            reason = str(error).splitlines()[0]  # without the picture of where it stands
            raise ValueError(f"--label {found.label} is not a JMESPath expression: {reason}") from error
    check = "label" if found.label else "predictions" if is_batchwire(found.url) else "status"
    if found.expect and check == "status":
        raise ValueError("--expect needs --label: where is the label in another service's answer?")
    return Target(
        url=found.url,
        field=found.field,
        body=body,
        headers=_headers(found),
        check=check,
        label=found.label,
        top=found.top,
        timeout_s=found.timeout,
        connections=found.connections,
        keep_alive=not found.no_keep_alive,
    )


def _headers(found: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    headers = [tuple(part.strip() for part in header.split(":", 1)) for header in found.header]
    if any(len(header) != 2 or not header[0] for header in headers):
        raise ValueError("--header must be NAME:VALUE")
    if not all("".join(header).isprintable() and "".join(header).isascii() for header in headers):
        raise ValueError("--header has characters that an HTTP header may not have")
    if found.api_key:
        headers.append(("X-API-Key", _api_key(found.api_key)))
    return tuple((name, value) for name, value in headers)


def _api_key(place: str) -> str:
    """The API key in a variable, or in the file after an @. Raises ValueError, which never has the key."""
    if place.startswith("@"):
        try:
            key = Path(place[1:]).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--api-key {place} can't be read: {type(error).__name__}") from error
    else:
        key = os.environ.get(place, "").strip()
    if not (key and key.isascii() and key.isprintable()):
        # The name of what is no variable may be the key itself.
        raise ValueError("--api-key names no variable and no @FILE with a key: never give the key itself")
    return key


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # no IPv6 address, no port
        return False


def without_headers(arguments: list[str]) -> list[str]:
    """Return the command line as it may be written down: a header can be a secret, a key by mistake too."""
    shown, hide = [], False
    for argument in arguments:
        shown.append(
            "***"
            if hide
            else argument.split("=")[0] + "=***"
            if argument.startswith(("--header=", "--api-key="))
            else argument
        )
        hide = argument in ("--header", "--api-key")
    return shown
