"""Keys that are made here, for requesters that cannot make their own.

Theory of operation. The key is made before anything is asked, in a thread (an RSA key takes its time), and
stored sealed in the same unit as the request it is for. Once the certificate is issued its requester may
fetch it, under a password of theirs, for as long as the profile says; then it is wiped, as it is at once when
the request comes to nothing. Nothing but the sealed form is ever written, and no event holds any of it.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from certloom.audit import SYSTEM, Origin, record
from certloom.clock import Clock
from certloom.enrollment.errors import Refused
from certloom.pki.containers import key_store
from certloom.pki.csr import CertificateRequest
from certloom.pki.identifiers import Identifier
from certloom.pki.keys import (
    LeafPrivateKey,
    facts_of,
    generate_for_leaf,
    leaf_private_from_der,
    private_to_der,
    spki_of,
)
from certloom.pki.names import Name
from certloom.policy.decisions import Reason
from certloom.policy.profiles import Profile
from certloom.secrets import DataKey
from certloom.store import request_keys as statements
from certloom.store.base import Store, Tx
from certloom.store.request_keys import StoredRequestKey

_AT_A_TIME = 2
"""Keys made at the same moment: they take a processor each."""
_CHUNK = 100

KeyForm = Literal["pkcs8", "pkcs12"]


class MadeKey(msgspec.Struct, frozen=True):
    """A key that was just made, and what stands for the CSR that nobody sent."""

    private: bytes
    """DER PKCS#8, not encrypted."""
    request: CertificateRequest
    keep: int
    """Seconds from issuance."""

    def __repr__(self) -> str:
        return "MadeKey()"


class ServerKeys:
    """Makes, keeps and gives out keys. One per process."""

    def __init__(self, store: Store, clock: Clock, data_key: DataKey) -> None:
        self._store = store
        self._clock = clock
        self._data_key = data_key
        self._making = asyncio.Semaphore(_AT_A_TIME)

    async def make(
        self, profile: Profile, algorithm: str, subject: Name, identifiers: tuple[Identifier, ...]
    ) -> MadeKey:
        """A new key, if the profile lets one be made. Raises ``Refused`` (``server-keys-not-allowed``)."""
        allowed = profile.server_keys.algorithms
        if algorithm not in allowed:
            raise Refused(
                Reason(
                    "server-keys-not-allowed",
                    f"the profile has keys made here of {', '.join(allowed)} only"
                    if allowed
                    else "the profile does not let keys be made here: send a CSR",
                )
            )
        async with self._making:
            key = await asyncio.to_thread(generate_for_leaf, algorithm)
        request = CertificateRequest(
            der=b"", key=facts_of(spki_of(key)), subject=subject, identifiers=identifiers
        )
        return MadeKey(private_to_der(key), request, profile.server_keys.keep)

    def keep(self, tx: Tx, request_id: str, certificate_id: int | None, made: MadeKey) -> None:
        """Store a key, sealed, in the unit that stores its request."""
        now = self._clock.now()
        sealed = self._data_key.seal(_purpose(request_id), made.private)
        statements.insert(tx, StoredRequestKey(request_id, certificate_id, sealed, now, now + made.keep))

    def until(self, tx: Tx, request_id: str) -> int | None:
        """Until when (Unix seconds) a request's key can be fetched; None where there is none to be had."""
        found = statements.get(tx, request_id)
        if found is None or found.certificate_id is None or found.expires <= self._clock.now():
            return None
        return found.expires

    def open(self, tx: Tx, request_id: str, origin: Origin) -> LeafPrivateKey:
        """A request's private key; that it was fetched is an event. Raises ``Refused`` (``key-gone``)."""
        found = statements.get(tx, request_id)
        if found is None or found.certificate_id is None or found.expires <= self._clock.now():
            raise Refused(Reason("key-gone", "there is no private key to be had here, or no longer"))
        record(
            tx,
            self._clock.now_ms(),
            "request.key_fetched",
            f"request:{request_id}",
            origin,
            {"certificate": found.certificate_id},
        )
        return leaf_private_from_der(self._data_key.open(_purpose(request_id), found.sealed))

    async def wipe_expired(self) -> int:
        """Wipe keys whose time is up; how many. Run it every minute."""
        now, count = self._clock.now(), 0
        while ids := await self._store.scan(lambda tx: statements.expired(tx, now, _CHUNK)):
            await self._store.write(partial(self._wipe, ids=ids))
            count += len(ids)
        return count

    def _wipe(self, tx: Tx, ids: list[str]) -> None:
        for id in ids:
            if statements.delete(tx, id):
                record(tx, self._clock.now_ms(), "request.key_wiped", f"request:{id}", SYSTEM)


def _purpose(request_id: str) -> str:
    return f"request-key:{request_id}"


async def encrypted(
    key: LeafPrivateKey, password: str, form: KeyForm, chain: list[bytes], name: str
) -> bytes:
    """A key as its requester takes it away: PEM of an encrypted PKCS#8, or a PKCS#12 with its chain.

    ``chain`` is DER, the key's own certificate first. Deriving a key from a password is slow by intent, so it
    happens in a thread.
    """

    def whole() -> bytes:
        protection = BestAvailableEncryption(password.encode())
        if form == "pkcs8":
            return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
        if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
            # The library's writer knows some kinds of keys only.
            return key_store(key, chain, password, name)
        own, *above = [x509.load_der_x509_certificate(der) for der in chain]
        return serialize_key_and_certificates(name.encode(), key, own, above, protection)

    return await asyncio.to_thread(whole)
