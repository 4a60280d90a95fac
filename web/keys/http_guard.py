"""Which addresses need an API key, and which right: all that are not named here need one for `predict`.

Owns that table, and the refusal of requests that another site had a browser send. guard.py judges the key.
"""

from typing import Final

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from broker.api_keys import ApiKey
from broker.errors import ClientError, ServiceError
from web.errors import Forbidden
from web.keys import access
from web.keys.guard import Credentials, Guard, require_right, unauthorized
from web.server.refusals import RequestHead

OPEN: Final = frozenset(
    (
        "health.healthz",
        "health.livez",
        "health.readyz",
        "open_inference.live",
        "open_inference.ready",
        "torchserve.ping",
        "files.file",
        "files.favicon",
    )
)
"""Endpoints that need no key: health checks, and the pages' files, which are the same everywhere."""

PAGES: Final = frozenset(("page.index", "page.status", "docs.page", "tutorials.upload_form"))
"""Endpoints whose refusal has a browser ask for the key, as the password of HTTP Basic."""

RIGHTS: Final = {"metrics.exposed": "metrics", "metrics.scaling": "metrics"}
"""What others than `predict` an endpoint needs."""

_OWN: Final = frozenset(("same-origin", "none"))
"""What Sec-Fetch-Site says of a site's own pages, and of what people type."""


def register(app: Flask, guard: Guard) -> None:
    """Have each request of `app` judged before it is read."""

    @app.before_request
    def judge() -> None:
        access.carry(None)
        endpoint = request.endpoint or ""  # of no route: closed as well
        if request.method == "OPTIONS" or endpoint in OPEN:
            return
        credentials = Credentials(
            request.headers.get("Authorization", ""), request.headers.get("X-API-Key", "")
        )
        key = guard.recognise(credentials, asks_browser=endpoint in PAGES)
        g.key_name = key.name  # for the line of the access log, also of what is refused from here on
        require_right(key, RIGHTS.get(endpoint, "predict"))
        if credentials.is_basic and _is_from_elsewhere(is_page=endpoint in PAGES):
            raise Forbidden(
                "Another site had the browser send this request: send the key as Authorization: Bearer."
            )
        access.carry(key)

    @app.after_request
    def tell(response: Response) -> Response:
        response.headers.update(access.limit_fields())
        return response

    @app.teardown_request
    def end(_: BaseException | None) -> None:
        access.carry(None)  # the thread goes on to another request


def _is_from_elsewhere(*, is_page: bool) -> bool:
    """Whether another site had the browser send this thread's request.

    To open a page is free, by a link too: it changes nothing, and the site that has the link sees none of it.
    """
    fields = request.headers
    if is_page and fields.get("Sec-Fetch-Mode") == "navigate":
        return False
    if site := fields.get("Sec-Fetch-Site"):
        return site not in _OWN
    # Over plain HTTP browsers do not tell the site; what changes something has an Origin all the same.
    origin = fields.get("Origin")
    return origin is not None and origin.partition("://")[2].lower() != request.host.lower()


class LoopGuard:
    """Judges requests by their header section alone, in the loop, where it waits for nobody."""

    def __init__(self, app: Flask, guard: Guard) -> None:
        self._addresses = app.url_map.bind("")
        self._guard = guard

    def refusal(self, head: RequestHead) -> ServiceError | None:
        """The refusal of a request without a known key, at an address of the app's that needs one."""
        if not self._guard.is_current or self._guard.peek(_credentials(head)) is not None:
            return None
        try:
            endpoint, _ = self._addresses.match(head.path, method=head.method)
        except HTTPException:  # below another root, perhaps: the app knows
            return None
        if head.method == "OPTIONS" or endpoint in OPEN:
            return None
        return unauthorized(asks_browser=endpoint in PAGES)

    def key(self, head: RequestHead) -> ApiKey | None:
        """The request's key, where it is known."""
        return self._guard.peek(_credentials(head))

    def key_name(self, head: RequestHead) -> str:
        """Its name, for the line of the access log; empty where it is not known."""
        key = self.key(head)
        return key.name if key is not None else ""

    @staticmethod
    def lane(key: ApiKey | None, priority: str) -> str | None:
        """The lane of a request's jobs; None where its key is not known, or may not have them."""
        try:
            return access.lane(key, priority) if key is not None else None
        except ClientError:
            return None


def _credentials(head: RequestHead) -> Credentials:
    return Credentials(head.authorization, head.x_api_key)
