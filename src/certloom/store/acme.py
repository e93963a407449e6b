"""ACME accounts, authorizations and orders: statements (RFC 8555 section 7.1)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from certloom.store.base import Row, Tx


class StoredAccount(msgspec.Struct, frozen=True, gc=False):
    """Times are Unix seconds."""

    id: str
    channel: str
    thumbprint: bytes
    jwk: str
    """Canonical JSON (RFC 7638 section 3)."""
    status: str
    contact: tuple[str, ...]
    terms: str | None
    """The URL of the terms of service that were agreed to."""
    credential_id: str | None
    """The external account binding it was made with."""
    address: str
    """Where it was made from, as far as limits tell addresses apart."""
    past_thumbprints: str
    """Base64url thumbprints of the keys it had before, newest first, space-separated."""
    created: int


class StoredAuthorization(msgspec.Struct, frozen=True, gc=False):
    id: str
    account_id: str
    order_id: str | None
    """The one order it was made for; None for pre-authorizations (RFC 8555 section 7.4.1)."""
    identifier_type: str
    identifier_value: str
    """Without ``*.``."""
    wildcard: int
    status: str
    token: str
    challenges: str
    """JSON; the protocol alone reads it."""
    created: int
    expires: int


class StoredOrder(msgspec.Struct, frozen=True, gc=False):
    id: str
    account_id: str
    channel: str
    profile: str
    identifiers: str
    """JSON, as the order shows it."""
    authorization_ids: str
    """Space-separated."""
    not_before: int | None
    not_after: int | None
    replaces: str | None
    """The ARI certificate identifier the client named (RFC 9773 section 4.1)."""
    replaces_certificate: int | None
    request_id: str | None
    """The enrolment request it was finalized with."""
    error: str | None
    """JSON problem document."""
    created: int
    expires: int


_ACCOUNT = (
    "id, channel, thumbprint, jwk, status, contact, terms, credential_id, address, past_thumbprints, created"
)
_AUTHORIZATION = (
    "id, account_id, order_id, identifier_type, identifier_value, wildcard, status, token, challenges,"
    " created, expires"
)
_ORDER = (
    "id, account_id, channel, profile, identifiers, authorization_ids, not_before, not_after, replaces,"
    " replaces_certificate, request_id, error, created, expires"
)
ACCOUNTS = "acme-accounts"
"""What a unit signals when it has changed an account that was there before."""

_INSERT_AUTHORIZATION = f"INSERT INTO acme_authorizations ({_AUTHORIZATION}) VALUES ({', '.join('?' * 11)})"
_INSERT_ORDER = f"INSERT INTO acme_orders ({_ORDER}) VALUES ({', '.join('?' * 14)})"
_SELECT_ACCOUNT = f"SELECT {_ACCOUNT} FROM acme_accounts WHERE id = ?"
_SELECT_AUTHORIZATION = f"SELECT {_AUTHORIZATION} FROM acme_authorizations WHERE id = ?"
_SELECT_ORDER = f"SELECT {_ORDER} FROM acme_orders WHERE id = ?"
_contact = msgspec.json.Decoder(tuple[str, ...]).decode
_MOST_AT_ONCE = 100


def _account(row: Row) -> StoredAccount:
    contact = row[5]
    return StoredAccount(*(*row[:5], () if contact == "[]" else _contact(contact), *row[6:]))


# Accounts


def account(tx: Tx, id: str, *, lock: bool = False) -> StoredAccount | None:
    row = tx.one(_SELECT_ACCOUNT + tx.for_update if lock else _SELECT_ACCOUNT, (id,))
    return _account(row) if row else None


def account_by_key(tx: Tx, channel: str, thumbprint: bytes) -> StoredAccount | None:
    row = tx.one(
        f"SELECT {_ACCOUNT} FROM acme_accounts WHERE channel = ? AND thumbprint = ?", (channel, thumbprint)
    )
    return _account(row) if row else None


def insert_account(tx: Tx, a: StoredAccount) -> None:
    """Raises ``Conflict`` when the key has an account on the channel already."""
    tx.run(
        f"INSERT INTO acme_accounts ({_ACCOUNT}) VALUES ({', '.join('?' * 11)})",
        (
            a.id,
            a.channel,
            a.thumbprint,
            a.jwk,
            a.status,
            msgspec.json.encode(a.contact).decode(),
            a.terms,
            a.credential_id,
            a.address,
            a.past_thumbprints,
            a.created,
        ),
    )


def update_account(tx: Tx, id: str, contact: tuple[str, ...], terms: str | None) -> None:
    tx.signal(ACCOUNTS)
    tx.run(
        "UPDATE acme_accounts SET contact = ?, terms = ? WHERE id = ?",
        (msgspec.json.encode(contact).decode(), terms, id),
    )


def set_account_status(tx: Tx, id: str, was: str, status: str) -> bool:
    tx.signal(ACCOUNTS)
    return tx.run("UPDATE acme_accounts SET status = ? WHERE id = ? AND status = ?", (status, id, was)) == 1


def set_account_key(tx: Tx, id: str, was: bytes, thumbprint: bytes, jwk: str, past_thumbprints: str) -> bool:
    """Replace the key if it still is ``was``. Raises ``Conflict`` when another account has the new one."""
    tx.signal(ACCOUNTS)
    return (
        tx.run(
            "UPDATE acme_accounts SET thumbprint = ?, jwk = ?, past_thumbprints = ?"
            " WHERE id = ? AND thumbprint = ?",
            (thumbprint, jwk, past_thumbprints, id, was),
        )
        == 1
    )


def account_made_before(tx: Tx, channel: str, address: str, nth: int) -> int | None:
    """When the ``nth`` newest account of that address was made; None if there are fewer."""
    row = tx.one(
        "SELECT created FROM acme_accounts WHERE channel = ? AND address = ?"
        " ORDER BY created DESC LIMIT 1 OFFSET ?",
        (channel, address, nth - 1),
    )
    return int(row[0]) if row else None


# Authorizations


def authorization(tx: Tx, id: str, *, lock: bool = False) -> StoredAuthorization | None:
    row = tx.one(_SELECT_AUTHORIZATION + tx.for_update if lock else _SELECT_AUTHORIZATION, (id,))
    return StoredAuthorization(*row) if row else None


def insert_authorization(tx: Tx, a: StoredAuthorization) -> None:
    tx.run(_INSERT_AUTHORIZATION, msgspec.structs.astuple(a))


def authorizations(tx: Tx, ids: Sequence[str]) -> list[StoredAuthorization]:
    """Those of these ids that exist, in any order."""
    found: list[StoredAuthorization] = []
    for start in range(0, len(ids), _MOST_AT_ONCE):
        some = ids[start : start + _MOST_AT_ONCE]
        marks = ", ".join("?" * len(some))
        found += [
            StoredAuthorization(*row)
            for row in tx.all(f"SELECT {_AUTHORIZATION} FROM acme_authorizations WHERE id IN ({marks})", some)
        ]
    return found


def authorization_states(tx: Tx, ids: Sequence[str]) -> list[tuple[str, int]]:
    """(status, expires) of those of these ids that exist."""
    if len(ids) == 1:
        row = tx.one("SELECT status, expires FROM acme_authorizations WHERE id = ?", ids)
        return [(row[0], row[1])] if row else []
    found: list[tuple[str, int]] = []
    for start in range(0, len(ids), _MOST_AT_ONCE):
        some = ids[start : start + _MOST_AT_ONCE]
        marks = ", ".join("?" * len(some))
        found += [
            (r[0], r[1])
            for r in tx.all(f"SELECT status, expires FROM acme_authorizations WHERE id IN ({marks})", some)
        ]
    return found


def usable_authorization(
    tx: Tx, account_id: str, type: str, value: str, wildcard: bool, after: int, *, pending: bool = False
) -> StoredAuthorization | None:
    """A valid one for exactly that identifier which lasts beyond ``after``, the longest-lived first.

    With ``pending``, failing that, a pending one that belongs to no order.
    """
    # The states stand in the text, not in parameters: only so do partial indexes serve.
    sql = (
        f"SELECT {_AUTHORIZATION} FROM acme_authorizations WHERE account_id = ? AND identifier_value = ?"
        " AND expires > ? AND identifier_type = ? AND wildcard = ? AND status = "
    )
    params = (account_id, value, after, type, int(wildcard))
    row = tx.one(f"{sql} 'valid' ORDER BY expires DESC LIMIT 1", params)
    if row is None and pending:
        row = tx.one(f"{sql} 'pending' AND order_id IS NULL ORDER BY expires DESC LIMIT 1", params)
    return StoredAuthorization(*row) if row else None


def update_authorization(
    tx: Tx, was: StoredAuthorization, status: str, challenges: str, expires: int
) -> bool:
    """Write what an act may change, if nothing has changed since ``was`` was read."""
    return (
        tx.run(
            "UPDATE acme_authorizations SET status = ?, challenges = ?, expires = ?"
            " WHERE id = ? AND status = ? AND challenges = ?",
            (status, challenges, expires, was.id, was.status, was.challenges),
        )
        == 1
    )


def authorization_failed_before(tx: Tx, account_id: str, nth: int) -> int | None:
    """When the ``nth`` newest failed authorization of an account was made; None if there are fewer."""
    row = tx.one(
        "SELECT created FROM acme_authorizations WHERE account_id = ? AND status = 'invalid'"
        " ORDER BY id DESC LIMIT 1 OFFSET ?",
        (account_id, nth - 1),
    )
    return int(row[0]) if row else None


# Orders


def order(tx: Tx, id: str) -> StoredOrder | None:
    row = tx.one(_SELECT_ORDER, (id,))
    return StoredOrder(*row) if row else None


def insert_order(tx: Tx, o: StoredOrder) -> None:
    tx.run(_INSERT_ORDER, msgspec.structs.astuple(o))


def set_order_request(tx: Tx, id: str, request_id: str) -> bool:
    """Link an order to its enrolment request; False when it has one, or has failed."""
    return (
        tx.run(
            "UPDATE acme_orders SET request_id = ? WHERE id = ? AND request_id IS NULL AND error IS NULL",
            (request_id, id),
        )
        == 1
    )


def set_order_error(tx: Tx, id: str, error: str) -> bool:
    """End an order that is not finalized yet."""
    return (
        tx.run(
            "UPDATE acme_orders SET error = ? WHERE id = ? AND request_id IS NULL AND error IS NULL",
            (error, id),
        )
        == 1
    )


def open_orders(tx: Tx, account_id: str, now: int, limit: int) -> int:
    """How many of an account's orders are neither finalized, failed nor expired; counted up to ``limit``."""
    row = tx.one(
        "SELECT count(*) FROM (SELECT 1 FROM acme_orders WHERE account_id = ? AND request_id IS NULL"
        " AND error IS NULL AND expires > ? LIMIT ?) AS counted",
        (account_id, now, limit),
    )
    return int(row[0]) if row else 0


def order_made_before(tx: Tx, account_id: str, nth: int) -> int | None:
    """When the ``nth`` newest order of an account was made; None if there are fewer."""
    row = tx.one(
        "SELECT created FROM acme_orders WHERE account_id = ? ORDER BY id DESC LIMIT 1 OFFSET ?",
        (account_id, nth - 1),
    )
    return int(row[0]) if row else None


def orders_of(tx: Tx, account_id: str, before: str | None, limit: int) -> list[StoredOrder]:
    """An account's orders, newest first; ``before`` is the last id of the page before."""
    if before is None:
        rows = tx.all(
            f"SELECT {_ORDER} FROM acme_orders WHERE account_id = ? ORDER BY id DESC LIMIT ?",
            (account_id, limit),
        )
    else:
        rows = tx.all(
            f"SELECT {_ORDER} FROM acme_orders WHERE account_id = ? AND id < ? ORDER BY id DESC LIMIT ?",
            (account_id, before, limit),
        )
    return [StoredOrder(*row) for row in rows]


def orders_replacing(tx: Tx, certificate_id: int) -> list[StoredOrder]:
    """The orders that claim to replace a certificate (RFC 9773 section 5)."""
    return [
        StoredOrder(*row)
        for row in tx.all(
            f"SELECT {_ORDER} FROM acme_orders WHERE replaces_certificate = ? ORDER BY id", (certificate_id,)
        )
    ]
