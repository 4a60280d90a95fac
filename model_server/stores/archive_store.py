"""Models in an archive behind a URL: asked for only when it has changed, downloaded once a round.

Owns the requests: https alone (http on loopback), no credential to another host, conditional by ETag or
Last-Modified. What an archive may contain is archive.py's to say.
"""

import base64
import http.client
import ipaddress
import tempfile
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import IO, Any, ClassVar, Final
from urllib.parse import unquote, urlsplit, urlunsplit

from model_server.stores import archive
from model_server.stores.object_store import without_secrets
from model_server.stores.remote_files import BLOCK_BYTES, StoreError

_TIMEOUT_S: Final = 30
_REFUSALS: Final = (401, 403)
_UNCHANGED: Final = 304
_GONE: Final = (404, 410)
_CUT_OFF: Final = "The model store can't be reached: the download ended early."


def may_be_asked(url: str) -> bool:
    """Whether a URL is https, or http to this machine itself."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https":
        return bool(host)
    try:
        is_here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_here = False
    return parts.scheme == "http" and is_here


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
        /,
    ) -> urllib.request.Request | None:
        if not may_be_asked(newurl):
            raise StoreError("The model store redirects to an address that is not https.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class ArchiveStore:
    """One archive. For one thread. `scratch` is a folder for the download."""

    is_whole: ClassVar = True

    def __init__(self, url: str, scratch: Path, *, most_mb: int, is_only: bool) -> None:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        self._url = urlunsplit(parts._replace(netloc=host))
        self._login = ""
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._login = f"Basic {base64.b64encode(login.encode()).decode()}"
        self._scratch = scratch
        self._most_mb = most_mb
        self._is_only = is_only
        self._known: dict[str, str] = {}
        """The validators of the archive when it was last asked for, and `stamp`."""
        self._is_current = False
        """Whether it was asked for in this round."""
        self._download: IO[bytes] | None = None
        """This round's, a file without a name: it ends with the process."""

    def look(self, model: str) -> str:
        """The ETag, or what else tells of a change; one request a round. Raises StoreError."""
        del model
        if not self._is_current:
            with closing(self._ask({**self._known, "Range": "bytes=0-0"})) as answer:
                if answer.status != _UNCHANGED:
                    self._keep(answer)
            self._is_current = True
        return self._known["stamp"]

    def fetch(self, model: str, folder: Path) -> None:
        """Download it, unless this round has, and unpack the model. Raises StoreError or OSError."""
        if self._download is None:
            self._download = self._downloaded(model)
        archive.unpack(self._download, model, folder, most_mb=self._most_mb, is_only=self._is_only)

    def end_round(self) -> None:
        """The download goes, and the next round asks anew."""
        self._is_current = False
        if self._download is not None:
            self._download.close()
            self._download = None

    def _downloaded(self, model: str) -> IO[bytes]:
        """The whole archive, in a file without a name. OSError is the local disk's."""
        file: IO[bytes] = tempfile.TemporaryFile(dir=self._scratch)  # noqa: SIM115 - end_round closes it
        try:
            with closing(self._ask({})) as answer:
                while block := _block(answer):
                    file.write(block)
                    if file.tell() > self._most_mb * 2**20:
                        raise StoreError(
                            f"It is larger than {self._most_mb} MB. STORE_MAX_MB sets the bound."
                        )
                length = answer.headers.get("Content-Length")
                if length is not None and length != str(file.tell()):
                    raise StoreError(_CUT_OFF)
                before = self._known.get("stamp")
                self._keep(answer)
            if before is not None and self._known["stamp"] != before:
                raise StoreError(f"{model}: its archive changed in the store while it was downloaded.")
        except BaseException:
            file.close()
            raise
        return file

    def _keep(self, answer: http.client.HTTPResponse) -> None:
        about = {name: answer.headers.get(name) or "" for name in ("ETag", "Last-Modified")}
        part = answer.headers.get("Content-Range") or ""
        length = part.rpartition("/")[2] or answer.headers.get("Content-Length") or ""
        stamp = about["ETag"] or f"{about['Last-Modified']} {length}"
        self._known = {
            "stamp": stamp,
            "If-None-Match": about["ETag"],
            "If-Modified-Since": about["Last-Modified"],
        }

    def _ask(self, known: dict[str, str]) -> http.client.HTTPResponse:
        """An answer whose body is still to be read. Raises StoreError.

        To a GET and never a HEAD: a signed URL allows one method.
        """
        request = urllib.request.Request(self._url, headers={"User-Agent": "batchwire"})  # noqa: S310 - may_be_asked
        for name in ("If-None-Match", "If-Modified-Since", "Range"):
            if known.get(name):
                request.add_header(name, known[name])
        if self._login:
            request.add_unredirected_header("Authorization", self._login)
        if not may_be_asked(self._url):
            raise StoreError("The model store must be asked by https.")
        try:
            answer: http.client.HTTPResponse = urllib.request.build_opener(_Redirects).open(
                request, timeout=_TIMEOUT_S
            )
        except urllib.error.HTTPError as error:
            with error:
                unchanged: http.client.HTTPResponse = self._judged(error)
                return unchanged
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise StoreError("The model store can't be reached.", without_secrets(error)) from None
        return answer

    @staticmethod
    def _judged(error: urllib.error.HTTPError) -> Any:  # noqa: ANN401 - it has what an answer has
        detail = f"HTTP status {error.code}"
        if error.code == _UNCHANGED:
            return error
        if error.code in _REFUSALS:
            raise StoreError(
                "The model store refuses access: its credentials are missing, wrong or expired.", detail
            )
        if error.code in _GONE:
            raise StoreError("The model store has no such archive.", detail)
        raise StoreError("The model store can't be reached, or does not answer as it should.", detail)


def _block(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read(BLOCK_BYTES)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise StoreError(_CUT_OFF, without_secrets(error)) from None
