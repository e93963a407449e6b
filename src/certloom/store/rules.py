"""Policy rules: statements. Each version is kept; the newest counts, and an empty one says it was removed."""

from __future__ import annotations

import msgspec

from certloom.store.base import Row, Tx


class StoredRule(msgspec.Struct, frozen=True):
    """One version of a rule."""

    name: str
    version: int
    body: str
    """Canonical JSON, or empty where this version removed the rule."""
    created: int
    """Unix seconds."""
    author: str
    """The actor who wrote it."""

    @property
    def removed(self) -> bool:
        return not self.body


_COLUMNS = "name, version, body, created, author"


def _rule(row: Row) -> StoredRule:
    return StoredRule(*row)


def current(tx: Tx) -> list[StoredRule]:
    """The newest version of each rule, by name; without those that were removed."""
    return [
        _rule(row)
        for row in tx.all(
            f"SELECT {_COLUMNS} FROM rules r WHERE body <> ''"
            " AND version = (SELECT max(version) FROM rules n WHERE n.name = r.name) ORDER BY name"
        )
    ]


def newest(tx: Tx, name: str) -> StoredRule | None:
    """Its newest version, also if that removed it."""
    row = tx.one(f"SELECT {_COLUMNS} FROM rules WHERE name = ? ORDER BY version DESC LIMIT 1", (name,))
    return _rule(row) if row else None


def version(tx: Tx, name: str, version: int) -> StoredRule | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM rules WHERE name = ? AND version = ?", (name, version))
    return _rule(row) if row else None


def versions(tx: Tx, name: str, before: int | None, limit: int) -> list[StoredRule]:
    """Newest first; ``before`` is the last version of the page before."""
    where, params = ("", (name,)) if before is None else (" AND version < ?", (name, before))
    return [
        _rule(row)
        for row in tx.all(
            f"SELECT {_COLUMNS} FROM rules WHERE name = ?{where} ORDER BY version DESC LIMIT ?",
            (*params, limit),
        )
    ]


def add(tx: Tx, rule: StoredRule) -> None:
    """Raises ``Conflict`` when that version exists: versions never change."""
    tx.run(
        f"INSERT INTO rules ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)",
        (rule.name, rule.version, rule.body, rule.created, rule.author),
    )
