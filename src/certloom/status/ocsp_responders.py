"""Delegated OCSP responders (RFC 6960 section 4.2.2.2): of each generation a key and a certificate.

The certificate is signed by the very key of the generation that it answers for, says OCSPSigning, and need
not be asked about itself (id-pkix-ocsp-nocheck). No answer outlives the certificate of who signed it.
"""

from __future__ import annotations

from certloom.authorities.delegates import Delegates, Mandate
from certloom.pki.ocsp import NO_CHECK, OCSP_SIGNING
from certloom.status.ocsp_sources import Source

PROFILE = "ocsp"
"""What rows of responders' certificates have in the place of a profile; its version is 0."""
_DAY = 86_400
LIFE = 14 * _DAY
"""Seconds that a responder's certificate is good for; longer where answers are good for long."""
RENEWED_BY = LIFE // 4
"""Seconds before its end by which a responder's certificate has been renewed, unless something is wrong."""


class Responders(Delegates[Source]):
    """Makes, renews and finds them."""

    mandate = Mandate(
        purpose="ocsp",
        signing="ocsp",
        profile=PROFILE,
        called="OCSP",
        thing="ocsp_responder",
        extended_key_usage=(OCSP_SIGNING,),
        extensions=(NO_CHECK,),
    )

    def life(self, source: Source) -> int:
        """In half of it an answer still fits."""
        return max(LIFE, 3 * source.options.ocsp_seconds)

    def key_kind(self, source: Source) -> str:
        return source.options.ocsp_key
