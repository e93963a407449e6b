"""Signed messages: by the registration authority of the channel's authority, never by a CA's key."""

from __future__ import annotations

import structlog

from certloom.authorities.base import AuthorityError
from certloom.authorities.registration import RegistrationAuthorities
from certloom.clock import Clock
from certloom.pki import cms
from certloom.protocols.est.problems import ESTProblem, retry_after
from certloom.signing import SigningError

_log = structlog.get_logger("certloom.est")


class MessageSigner:
    """Signs CMS contents (RFC 5652 section 5)."""

    def __init__(self, clock: Clock, registration: RegistrationAuthorities) -> None:
        self._clock = clock
        self._registration = registration

    async def sign(
        self,
        authority: str,
        content_type: str,
        content: bytes,
        certificates: tuple[bytes, ...] = (),
        *,
        bare: bool = False,
    ) -> bytes:
        """DER of SignedData (a ContentInfo, unless ``bare``) with one signer, its certificate and
        ``certificates``.

        Raises ``ESTProblem`` (503) while nothing can be signed.
        """
        try:
            ra = await self._registration.of(authority)
            digest = cms.digest_for(ra.spki)
            attributes = cms.signed_attributes(content_type, content, digest, signing_time=self._clock.now())
            signature = await self._registration.sign(ra, attributes)
        except (AuthorityError, SigningError) as error:
            _log.error("est.not_signed", authority=authority, why=str(error))
            raise ESTProblem(503, "the answer cannot be signed at the moment", retry_after(30)) from error
        return cms.assemble_signed_data(
            content_type,
            content,
            attributes,
            signature,
            cms.by_issuer_and_serial(ra.certificate),
            digest,
            ra.algorithm,
            tuple(dict.fromkeys((ra.certificate, *certificates))),
            bare=bare,
        )
