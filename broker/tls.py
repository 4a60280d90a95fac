"""What is wrong with a TLS connection to Redis, in words that say what to do.

Owns these words. Connects to nothing; settings.py refuses a URL that would not verify the server.
"""

import ssl
from typing import Final

_MISMATCH: Final = frozenset((62, 64))
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL."""
_EXPIRED: Final = frozenset((9, 10))


def reason(error: BaseException | None) -> str:
    """Why TLS failed, if that is what lies at the bottom of this error; else empty."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    match error:
        case ssl.SSLCertVerificationError():
            return _unverified(error)
        case ssl.SSLError():
            return (
                f"it ended the TLS connection ({_said(error)}): it may ask for a client certificate that its "
                "CA signed, which REDIS_URL names by ?ssl_certfile=FILE&ssl_keyfile=FILE"
            )
    return ""


def _unverified(error: ssl.SSLCertVerificationError) -> str:
    said = error.verify_message.rstrip(".")
    if error.verify_code in _MISMATCH:
        return (
            f"its certificate is another host's ({said}): name the host in REDIS_URL as its certificate does"
        )
    if error.verify_code in _EXPIRED:
        return f"its certificate is not valid today ({said}): renew it, or correct this machine's clock"
    return (
        f"its certificate is of no CA that is trusted here ({said}): name the file of its CA by "
        "?ssl_ca_certs=FILE in REDIS_URL"
    )


def _said(error: ssl.SSLError) -> str:
    return error.reason.lower().replace("_", " ") if error.reason else str(error.strerror or error)
