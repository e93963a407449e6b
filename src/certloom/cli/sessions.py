"""Where ``certloom login`` keeps its sessions: one file of the user's own, a session for each server."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TypedDict


class Session(TypedDict):
    """Who is logged in to a server, and how to reach it."""

    cookie: str
    name: str
    ca_file: str


def path() -> Path:
    """The file, below XDG's folder for configuration."""
    base = os.environ.get("XDG_CONFIG_HOME") or ""
    folder = Path(base) if base.startswith("/") else Path.home() / ".config"
    return folder / "certloom" / "sessions.json"


def find(server: str) -> Session | None:
    """The session with a server, if one was begun and kept."""
    return _read().get(_key(server))


def keep(server: str, session: Session) -> None:
    """Remember a session, readable by this user alone."""
    _write({**_read(), _key(server): session})


def forget(server: str) -> None:
    """Remember it no longer."""
    kept = _read()
    if kept.pop(_key(server), None) is not None:
        _write(kept)


def _key(server: str) -> str:
    return server.rstrip("/").lower()


def _read() -> dict[str, Session]:
    try:
        kept = json.loads(path().read_bytes())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _write(kept: dict[str, Session]) -> None:
    file = path()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(file, json.dumps(kept, indent=2).encode())


def write_private(file: Path, data: bytes) -> None:
    """Put ``data`` at ``file`` whole, readable by this user alone. Raises ``OSError``."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        os.rename(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
