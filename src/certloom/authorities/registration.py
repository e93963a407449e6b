"""Registration authorities: who signs the messages of enrolment protocols in an authority's name.

A CA's own key signs certificates and CRLs and nothing else, so the answers of full CMC (RFC 5272 section 4.2)
and the keys that are made here for clients (RFC 7030 section 4.4.2) are signed by a delegate of the
authority's current generation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from certloom.authorities.base import AuthorityError
from certloom.authorities.delegates import Delegate, Delegates, Delegator, Mandate
from certloom.authorities.generations import CURRENT, body_of
from certloom.authorities.local import LocalAuthority
from certloom.clock import Clock
from certloom.signing import Signing
from certloom.store.authorities import StoredGeneration
from certloom.store.base import Store

PROFILE = "ra"
"""What rows of their certificates have in the place of a profile; its version is 0."""
_DAY = 86_400
_LIFE = 90 * _DAY

CMC_CA = "1.3.6.1.5.5.7.3.27"
CMC_RA = "1.3.6.1.5.5.7.3.28"
"""id-kp-cmcCA and id-kp-cmcRA (RFC 6402 section 2.10)."""
KEY_GENERATION = "1.3.6.1.5.5.7.3.32"
"""id-kp-cmKGA (RFC 9810 section 4.5)."""


class RegistrationAuthorities(Delegates[Delegator]):
    """Those that speak EST."""

    mandate = Mandate(
        purpose="est",
        signing="ra",
        profile=PROFILE,
        called="RA",
        thing="registration_authority",
        extended_key_usage=(CMC_CA, CMC_RA, KEY_GENERATION),
    )

    def __init__(
        self,
        store: Store,
        clock: Clock,
        signing: Signing,
        node: str,
        authorities: Callable[[], Mapping[str, LocalAuthority]],
        generations: Callable[[str], tuple[StoredGeneration, ...]],
    ) -> None:
        super().__init__(store, clock, signing, node)
        self._authorities = authorities
        self._generations = generations

    def life(self, source: Delegator) -> int:
        return _LIFE

    def key_kind(self, source: Delegator) -> str:
        """Clients verify it, who verify the CA's signatures as well: P-256, unless the CA speaks RSA only."""
        return "rsa-2048" if source.algorithm.startswith("rsa") else "P-256"

    async def of(self, authority: str) -> Delegate:
        """The one of an authority, made if there is none.

        Raises ``AuthorityError`` (also for an authority that is not ours), ``SigningError`` or
        ``StoreError``.
        """
        return await self.get(self._delegator(authority))

    async def sign(self, delegate: Delegate, data: bytes) -> bytes:
        """Its signature over these octets. Raises ``SigningError``."""
        return (await self._signing.sign(delegate.key_id, [data]))[0]

    async def keep_all(self) -> None:
        """Renew those in use that are due, and forget the old ones. Run it every minute."""
        for authority, _ in tuple(self._found):
            await self.keep(self._delegator(authority))
        await self.forget_expired()

    def _delegator(self, authority: str) -> Delegator:
        local = self._authorities().get(authority)
        for g in self._generations(authority) if local is not None else ():
            if g.state == CURRENT and g.certificate is not None and g.key_id is not None:
                assert local is not None
                body = body_of(g)
                return Delegator(
                    authority=authority,
                    generation=g.generation,
                    certificate=g.certificate,
                    key_id=g.key_id,
                    crl_shards=local.crl_shards,
                    algorithm=body.algorithm,
                    token=body.token,
                )
        raise AuthorityError("not-here", f"no key of authority {authority} is here to certify a delegate")
