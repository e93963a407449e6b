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


def put_channel(tx: Tx, protocol: str, name: str, body: str, now: int) -> None:
    tx.run(
        "INSERT INTO channels (protocol, name, body, updated) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (protocol, name) DO UPDATE SET body = excluded.body, updated = excluded.updated",
        (protocol, name, body, now),
    )


def delete_channel(tx: Tx, protocol: str, name: str) -> bool:
    return tx.run("DELETE FROM channels WHERE protocol = ? AND name = ?", (protocol, name)) == 1


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


def touch(tx: Tx) -> None:
    """To be called in the unit that changed the configuration."""
    put_fact(tx, "configuration", str(generation(tx) + 1))
