"""Profiles and channels, and the counter that tells every process they changed: statements."""

from __future__ import annotations

from certloom.store.base import Tx


def profile_versions(tx: Tx) -> list[tuple[str, int, str]]:
    """(name, version, body) of every version of every profile."""
    return [
        (r[0], r[1], r[2]) for r in tx.all("SELECT name, version, body FROM profiles ORDER BY name, version")
    ]


def current_profiles(tx: Tx) -> dict[str, tuple[int, str]]:
    """(version, body) of the newest version of each profile."""
    return {name: (version, body) for name, version, body in profile_versions(tx)}


def profile_names(tx: Tx) -> frozenset[str]:
    return frozenset(r[0] for r in tx.all("SELECT DISTINCT name FROM profiles"))


def newest_profile(tx: Tx, name: str) -> tuple[int, str] | None:
    """(version, body) of a profile's newest version."""
    row = tx.one("SELECT version, body FROM profiles WHERE name = ? ORDER BY version DESC LIMIT 1", (name,))
    return None if row is None else (row[0], row[1])


def profile_version(tx: Tx, name: str, version: int) -> tuple[str, int] | None:
    """(body, created) of one version."""
    row = tx.one("SELECT body, created FROM profiles WHERE name = ? AND version = ?", (name, version))
    return None if row is None else (row[0], row[1])


def versions_before(tx: Tx, name: str, before: int | None, limit: int) -> list[tuple[int, int]]:
    """(version, created) of a profile's versions, the newest first."""
    return [
        (r[0], r[1])
        for r in tx.all(
            "SELECT version, created FROM profiles WHERE name = ? AND version < ?"
            " ORDER BY version DESC LIMIT ?",
            (name, 2**62 if before is None else before, limit),
        )
    ]


def newest_profiles(tx: Tx, after: str, limit: int) -> list[tuple[str, int, str, int]]:
    """(name, version, body, created) of the newest versions of profiles, by name."""
    return [
        (r[0], r[1], r[2], r[3])
        for r in tx.all(
            "SELECT p.name, p.version, p.body, p.created FROM profiles AS p WHERE p.name > ? AND NOT EXISTS"
            " (SELECT 1 FROM profiles AS later WHERE later.name = p.name AND later.version > p.version)"
            " ORDER BY p.name LIMIT ?",
            (after, limit),
        )
    ]


def add_profile_version(tx: Tx, name: str, version: int, body: str, now: int) -> None:
    """Raises ``Conflict`` when that version exists: versions never change."""
    tx.run(
        "INSERT INTO profiles (name, version, body, created) VALUES (?, ?, ?, ?)", (name, version, body, now)
    )


def channels(tx: Tx) -> list[tuple[str, str, str]]:
    """(protocol, name, body) of every channel."""
    return [
        (r[0], r[1], r[2])
        for r in tx.all("SELECT protocol, name, body FROM channels ORDER BY protocol, name")
    ]


def channel(tx: Tx, protocol: str, name: str, *, lock: bool = False) -> str | None:
    """A channel's body."""
    row = tx.one(
        f"SELECT body FROM channels WHERE protocol = ? AND name = ?{tx.for_update if lock else ''}",
        (protocol, name),
    )
    return None if row is None else row[0]


def channels_after(tx: Tx, protocol: str, name: str, limit: int) -> list[tuple[str, str, str]]:
    """(protocol, name, body) of the channels that follow, by protocol and name."""
    return [
        (r[0], r[1], r[2])
        for r in tx.all(
            "SELECT protocol, name, body FROM channels WHERE (protocol, name) > (?, ?)"
            " ORDER BY protocol, name LIMIT ?",
            (protocol, name, limit),
        )
    ]


def put_channel(tx: Tx, protocol: str, name: str, body: str, now: int) -> None:
    tx.run(
        "INSERT INTO channels (protocol, name, body, updated) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (protocol, name) DO UPDATE SET body = excluded.body, updated = excluded.updated",
        (protocol, name, body, now),
    )


def delete_channel(tx: Tx, protocol: str, name: str) -> bool:
    return tx.run("DELETE FROM channels WHERE protocol = ? AND name = ?", (protocol, name)) == 1


def anchors(tx: Tx) -> list[tuple[str, str]]:
    """(name, body) of every set of trust anchors, by name."""
    return [(r[0], r[1]) for r in tx.all("SELECT name, body FROM trust_anchors ORDER BY name")]


def anchor_names(tx: Tx) -> frozenset[str]:
    return frozenset(r[0] for r in tx.all("SELECT name FROM trust_anchors"))


def anchor_set(tx: Tx, name: str, *, lock: bool = False) -> str | None:
    """The body of one set."""
    row = tx.one(f"SELECT body FROM trust_anchors WHERE name = ?{tx.for_update if lock else ''}", (name,))
    return str(row[0]) if row else None


def anchors_after(tx: Tx, name: str, limit: int) -> list[tuple[str, str]]:
    """(name, body) of the sets that follow, by name."""
    rows = tx.all("SELECT name, body FROM trust_anchors WHERE name > ? ORDER BY name LIMIT ?", (name, limit))
    return [(r[0], r[1]) for r in rows]


def put_anchors(tx: Tx, name: str, body: str, now: int) -> None:
    tx.run(
        "INSERT INTO trust_anchors (name, body, created, changed) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET body = excluded.body, changed = excluded.changed",
        (name, body, now, now),
    )


def delete_anchors(tx: Tx, name: str) -> bool:
    return tx.run("DELETE FROM trust_anchors WHERE name = ?", (name,)) == 1


def fact(tx: Tx, key: str) -> str | None:
    """A single stored value, such as ``configuration``."""
    row = tx.one("SELECT value FROM facts WHERE key = ?", (key,))
    return row[0] if row else None


def put_fact(tx: Tx, key: str, value: str) -> None:
    tx.run(
        "INSERT INTO facts (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )


def generation(tx: Tx) -> int:
    """Rises with every change of profiles, channels or authorities, so that each process can tell."""
    return int(fact(tx, "configuration") or 0)


def note_health(tx: Tx, now: int) -> None:
    """Write something, so as to know that writing works."""
    tx.run(
        "INSERT INTO facts (key, value) VALUES ('health', ?)"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (str(now),),
    )


def touch(tx: Tx) -> None:
    """To be called in the unit that changed the configuration."""
    tx.run(
        "INSERT INTO facts (key, value) VALUES ('configuration', '1') ON CONFLICT (key)"
        " DO UPDATE SET value = CAST(CAST(facts.value AS INTEGER) + 1 AS TEXT)"
    )


def edit(tx: Tx) -> None:
    """To be called first in a unit that looks at the configuration and then changes it.

    Such units wait for one another; each sees what the ones before it made, also where there was nothing
    whose row could be locked.
    """
    tx.run(
        "INSERT INTO facts (key, value) VALUES ('configuration', '0')"
        " ON CONFLICT (key) DO UPDATE SET value = facts.value"
    )
