"""Moving a key from one source to another, so that no crash can lose it."""

from __future__ import annotations

import hmac
from pathlib import Path

import msgspec

from certloom.secrets import key_file
from certloom.secrets.asking import Ask
from certloom.secrets.errors import SecretError
from certloom.secrets.key_file import key_id, source_of
from certloom.secrets.sources import Source, read_form
from certloom.settings.key_sources import Secrets


class Protected(msgspec.Struct, frozen=True):
    """What was done."""

    path: str
    id: str
    was: str
    """The source before."""
    source: str


def protect(settings: Secrets, path: Path, source: str, ask: Ask | None = None) -> Protected:
    """Have the key in the file at ``path`` need ``source`` instead of what it needs now.

    Both are used with their settings. The new form is opened again, from the octets that will be in the
    file, before the file is replaced; a key that was in the clear is overwritten after that. The key itself
    does not change, so whatever was sealed under it still opens. Raises ``SecretError``: then nothing has
    changed.
    """
    form = read_form(path)
    opened = Source(settings, path, ask)
    key = opened.unwrap(form)
    text = key_file.encode(opened.wrap(key, source))
    again = key_file.decode(text, path)
    if not hmac.compare_digest(opened.unwrap(again), key):
        raise SecretError(f"source {source!r} does not give back what it was given: nothing was changed")
    try:
        key_file.replace(path, text)
    except OSError as error:
        raise SecretError(f"cannot replace {path}: {error.strerror}") from error
    return Protected(str(path), key_id(key).hex(), source_of(form), source)


def export(settings: Secrets, path: Path, ask: Ask | None = None) -> bytes:
    """The key itself, as a source that keeps keys wants it: base64 and a line end. Raises ``SecretError``."""
    key = Source(settings, path, ask).unwrap(read_form(path))
    return key_file.as_text(key)
