"""Certificate download (RFC 8555 section 7.4.2)."""

from __future__ import annotations

from functools import lru_cache

from certloom.enrollment.books import UnknownName
from certloom.pki.pem import to_pem
from certloom.protocols.acme.exchange import Answer, Exchange, Header
from certloom.protocols.acme.orders import OrderState, own_order, read_order
from certloom.protocols.acme.problems import malformed
from certloom.protocols.acme.service import ACMEService, by_account, expect_get
from certloom.protocols.acme.states import OrderStatus
from certloom.store import certificates as certificate_statements
from certloom.store.acme import StoredAccount
from certloom.store.base import Tx
from certloom.store.certificates import StoredCertificate

_PEM_CHAIN = b"application/pem-certificate-chain"


@lru_cache(64)
def _chain(ders: tuple[bytes, ...]) -> bytes:
    return b"".join([to_pem(der) for der in ders])


async def certificate(service: ACMEService, x: Exchange, id: str, alternate: str) -> Answer:
    """The chain of a valid order's certificate; ``alternate`` counts other chains from 1."""
    now = service.clock.now()

    def load(tx: Tx, _: StoredAccount) -> tuple[OrderState | None, StoredCertificate | None]:
        state = read_order(tx, id, now)
        if state is None or state.request is None or state.request.certificate_id is None:
            return state, None
        return state, certificate_statements.get(tx, state.request.certificate_id)

    signed = await by_account(service, x, load)
    expect_get(signed.payload)
    state = own_order(signed.loaded[0], signed.account)
    found = signed.loaded[1]
    if state.status is not OrderStatus.VALID or found is None:
        raise malformed("there is no certificate yet", 404)
    try:
        chains = service.books.authority(found.authority).chains(found.generation)
    except UnknownName:
        chains = ((),)
    which = int(alternate) if alternate.isascii() and alternate.isdigit() and len(alternate) < 4 else 0
    if which >= len(chains) or (alternate and str(which) != alternate) or alternate == "0":
        raise malformed("there is no such chain", 404)
    return Answer(
        to_pem(found.der) + _chain(chains[which]), *_alternates(x, id, which, len(chains)), type=_PEM_CHAIN
    )


def _alternates(x: Exchange, id: str, which: int, count: int) -> list[Header]:
    url = x.site.certificate + id
    return [
        (b"link", f'<{url}{f"/{other}" if other else ""}>;rel="alternate"'.encode())
        for other in range(count)
        if other != which
    ]
