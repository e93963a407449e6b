"""What a TLS session says of the client, for the scope of its requests."""

from __future__ import annotations

import ssl
from typing import Any

_DER = 2
"""``_ssl.ENCODING_DER``."""


def about_peer(session: ssl.SSLObject) -> dict[str, Any]:
    """Of a session whose client was asked for a certificate.

    ``certloom.peer_certificate`` is its DER, ``certloom.peer_chain`` the CA certificates that came with it;
    both are missing where the client sent none. ``certloom.tls_unique`` is the channel binding of that name
    (RFC 5929 section 3), which TLS 1.3 does not have: what Python gives there is another thing.
    """
    found: dict[str, Any] = {}
    certificate = session.getpeercert(True)
    if certificate is not None:
        found["certloom.peer_certificate"] = certificate
        found["certloom.peer_chain"] = _chain(session)
    if session.version() == "TLSv1.2":
        found["certloom.tls_unique"] = session.get_channel_binding("tls-unique")
    return found


def _chain(session: ssl.SSLObject) -> tuple[bytes, ...]:
    """What came behind the client's own certificate. Python has had a public name for it since 3.13."""
    below: Any = getattr(session, "_sslobj", None)
    if not hasattr(below, "get_unverified_chain"):
        return ()
    return tuple(certificate.public_bytes(_DER) for certificate in (below.get_unverified_chain() or ())[1:])
