"""Custom roles, and teams: statements."""

from __future__ import annotations

import msgspec

from certloom.store.base import Tx


class StoredRole(msgspec.Struct, frozen=True):
    """A custom role; ``body`` is JSON that ``identity`` reads."""

    name: str
    body: str
    revision: int
    created: int


class StoredTeam(msgspec.Struct, frozen=True):
    name: str
    description: str
    revision: int
    created: int


_ROLE = "SELECT name, body, revision, created FROM roles"
_TEAM = "SELECT name, description, revision, created FROM teams"


def get(tx: Tx, name: str) -> StoredRole | None:
    row = tx.one(f"{_ROLE} WHERE name = ?", (name,))
    return StoredRole(*row) if row else None


def listing(tx: Tx, limit: int, after: str = "") -> list[StoredRole]:
    rows = tx.all(f"{_ROLE} WHERE name > ? ORDER BY name LIMIT ?", (after, limit))
    return [StoredRole(*row) for row in rows]


def insert(tx: Tx, role: StoredRole) -> None:
    """Raises ``Conflict`` when the name is taken."""
    tx.run(
        "INSERT INTO roles (name, body, revision, created) VALUES (?, ?, ?, ?)",
        msgspec.structs.astuple(role),
    )


def update(tx: Tx, name: str, body: str, revision: int) -> bool:
    """False when it is not at that revision any more."""
    return (
        tx.run(
            "UPDATE roles SET body = ?, revision = revision + 1 WHERE name = ? AND revision = ?",
            (body, name, revision),
        )
        == 1
    )


def delete(tx: Tx, name: str) -> bool:
    return tx.run("DELETE FROM roles WHERE name = ?", (name,)) == 1


def granted(tx: Tx) -> list[str]:
    """Every list of grants there is, as JSON: of people, of tokens and client certificates."""
    return [
        text
        for sql in (
            "SELECT grants FROM people WHERE grants <> '[]'",
            "SELECT oidc_grants FROM people WHERE oidc_grants <> '[]'",
            "SELECT grants FROM credentials WHERE grants <> '[]' AND revoked IS NULL",
        )
        for (text,) in tx.all(sql)
    ]


def team(tx: Tx, name: str) -> StoredTeam | None:
    row = tx.one(f"{_TEAM} WHERE name = ?", (name,))
    return StoredTeam(*row) if row else None


def teams(tx: Tx, limit: int, after: str = "") -> list[StoredTeam]:
    rows = tx.all(f"{_TEAM} WHERE name > ? ORDER BY name LIMIT ?", (after, limit))
    return [StoredTeam(*row) for row in rows]


def insert_team(tx: Tx, team: StoredTeam) -> None:
    """Raises ``Conflict`` when the name is taken."""
    tx.run(
        "INSERT INTO teams (name, description, revision, created) VALUES (?, ?, ?, ?)",
        msgspec.structs.astuple(team),
    )


def update_team(tx: Tx, name: str, description: str, revision: int) -> bool:
    """False when it is not at that revision any more."""
    return (
        tx.run(
            "UPDATE teams SET description = ?, revision = revision + 1 WHERE name = ? AND revision = ?",
            (description, name, revision),
        )
        == 1
    )


def delete_team(tx: Tx, name: str) -> bool:
    return tx.run("DELETE FROM teams WHERE name = ?", (name,)) == 1


def memberships(tx: Tx) -> list[str]:
    """Every person's list of teams, as JSON."""
    return [
        text
        for sql in (
            "SELECT teams FROM people WHERE teams <> '[]'",
            "SELECT oidc_teams FROM people WHERE oidc_teams <> '[]'",
        )
        for (text,) in tx.all(sql)
    ]


def team_has_credentials(tx: Tx, name: str) -> bool:
    return tx.one("SELECT 1 FROM credentials WHERE team = ? AND revoked IS NULL LIMIT 1", (name,)) is not None
