"""Signatures, verified by the Standard Webhooks' own library."""

import json
import re
import time
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tests.support import ROOT
from tests.support.receivers import SECRET
from web.webhooks.signing import Signer

OTHER = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo="
BODY = b'{"success": true}\n'


def test_it_is_that_of_the_specification_s_own_example() -> None:
    headers = Signer(SECRET).headers("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', at=1614265330.9)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_each_of_two_secrets_verifies_it_and_a_third_does_not() -> None:
    headers = Signer(f"{SECRET} {OTHER}").headers("id", BODY, at=time.time())
    for secret in (SECRET, OTHER):
        assert Webhook(secret).verify(BODY, headers) == {"success": True}
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "A" * 32).verify(BODY, headers)


@pytest.mark.parametrize("changed", ["body", "webhook-id", "webhook-timestamp"])
def test_nothing_of_it_can_be_changed(changed: str) -> None:
    headers = Signer(SECRET).headers("id", BODY, at=time.time())
    body = BODY + b" " if changed == "body" else BODY
    if changed != "body":
        headers[changed] = {"webhook-id": "ie", "webhook-timestamp": str(int(time.time()) + 60)}[changed]
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body, headers)


def test_the_receiver_of_the_page_takes_it_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "http.md").read_text("utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) <= 15
    program: dict[str, Any] = {"__name__": "receiver"}
    exec(block, program)  # noqa: S102 - it is ours
    receiver = program["app"].test_client()
    for answer in ({"success": True, "predictions": [{"label": "7"}]}, {"success": False, "error": "why"}):
        body = json.dumps(answer).encode()
        headers = Signer(SECRET).headers("8bcad012", body, at=time.time())
        assert receiver.post("/done", data=body, headers=headers).status_code == 204
        assert receiver.post("/done", data=body + b" ", headers=headers).status_code == 401
        late = Signer(SECRET).headers("8bcad012", body, at=time.time() - 600)
        assert receiver.post("/done", data=body, headers=late).status_code == 401
    assert capsys.readouterr().out == "8bcad012 [{'label': '7'}]\n8bcad012 why\n"


def test_a_secret_is_in_no_representation() -> None:
    assert SECRET.removeprefix("whsec_") not in repr(Signer(SECRET))
