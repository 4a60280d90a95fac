"""Signatures, verified by the Standard Webhooks' own library."""

import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

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


def test_a_secret_is_in_no_representation() -> None:
    assert SECRET.removeprefix("whsec_") not in repr(Signer(SECRET))
