"""CAA: whether the owner of a domain lets this CA issue (RFC 8659, with the parameters of RFC 8657)."""

from __future__ import annotations

from collections.abc import Sequence

from certloom.outbound.resolver import Resolver
from certloom.pki.identifiers import Identifier


class CAAChecker:
    """Looks up and judges CAA records."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    async def check(
        self,
        identifier: Identifier,
        *,
        issuer_domains: Sequence[str],
        wildcard: bool = False,
        account_url: str = "",
        method: str = "",
    ) -> None:
        """Return if issuing is allowed; IP identifiers always are (RFC 8738 section 8 leaves them out of CAA).

        ``method`` is the challenge type that proved control (``validationmethods``), ``account_url`` the
        account's URL (``accounturi``). Raises ``ValidationFailed`` with code ``caa`` when the records forbid
        it, ``dns`` when they could not be had.
        """
        raise NotImplementedError
