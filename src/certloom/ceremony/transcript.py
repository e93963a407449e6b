"""What was done, by whom and when: a text file to which entries are only ever added.

    certloom ceremony transcript 1
    #1 2026-11-24T09:30:00Z ceremony begins
      present: Ada Lovelace (administrator)
      sha256: the SHA-256 of the file's octets before this line

Each entry's hash covers everything before it, so nothing can be changed, put in or left out in the middle.
The root's key signs the file at the end of a ceremony; the signature over everything up to entry N lies
beside it as ``NAME.N.sig``. The file begins with a letter, so that the signature can never be one over a
certificate or a CRL, which begin with the octet 0x30.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from certloom.ceremony.errors import CeremonyError
from certloom.ceremony.files import check_directory
from certloom.pki import signatures
from certloom.pki.certificates import parse_certificate
from certloom.pki.keys import PrivateKey, facts_of, public_key

_HEADER = b"certloom ceremony transcript 1\n"
_HEAD = re.compile(r"#([1-9][0-9]{0,8}) ([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z) ([ -~]{1,100})")
_FIELD = re.compile(r"  ([a-z0-9 -]{1,40}): (.*)")
_MOST = 16_777_216


class Entry(msgspec.Struct, frozen=True):
    """One step."""

    number: int
    time: str
    what: str
    fields: tuple[tuple[str, str], ...]
    sha256: str
    end: int
    """Where it ends in the file: octets from the beginning."""


def read(text: bytes) -> list[Entry]:
    """The entries, each seen to fit what is before it. Raises ``CeremonyError`` naming the first that does
    not."""
    if not text.startswith(_HEADER):
        raise CeremonyError("this is not the transcript of a ceremony")
    entries: list[Entry] = []
    head: tuple[int, str, str] | None = None
    fields: list[tuple[str, str]] = []
    digest = hashlib.sha256(_HEADER)
    position = len(_HEADER)
    for raw in text[position:].splitlines(keepends=True):
        number = len(entries) + 1
        broken = CeremonyError(f"the transcript was altered at entry {number}, or before it")
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise broken from None
        if not line.endswith("\n"):
            raise CeremonyError(f"the transcript breaks off within entry {number}")
        line = line[:-1]
        if head is None:
            found = _HEAD.fullmatch(line)
            if found is None or int(found[1]) != number:
                raise broken
            head = (number, found[2], found[3])
        else:
            field = _FIELD.fullmatch(line)
            if field is None:
                raise broken
            if field[1] == "sha256":
                if field[2] != digest.hexdigest():
                    raise broken
                entries.append(Entry(*head, tuple(fields), field[2], position + len(raw)))
                head, fields = None, []
            else:
                fields.append((field[1], field[2]))
        digest.update(raw)
        position += len(raw)
    if head is not None:
        raise CeremonyError(f"the transcript breaks off within entry {len(entries) + 1}")
    return entries


class Transcript:
    """The transcript of a root, open to be added to."""

    def __init__(self, path: Path) -> None:
        """Begun where there is none; one that is broken is not added to. Raises ``CeremonyError``."""
        self.path = path
        check_directory(path.parent)
        try:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(path, flags, 0o600)
            if os.fstat(self._fd).st_mode & 0o077:
                raise CeremonyError(f"others may use {path}: chmod 600 it")
            self._text = os.pread(self._fd, _MOST, 0)
        except OSError as error:
            raise CeremonyError(f"{path}: {error.strerror}") from None
        if not self._text:
            self._add(_HEADER)
        self.entries = read(self._text)

    def add(self, now: int, what: str, fields: Iterable[tuple[str, object]] = ()) -> Entry:
        """Write down a step; it is on disk when this returns. Raises ``CeremonyError``."""
        time = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        number = len(self.entries) + 1
        lines = [f"#{number} {time} {what}"]
        lines += [f"  {name}: {one_line(str(value))}" for name, value in fields]
        body = "\n".join(lines).encode() + b"\n"
        digest = hashlib.sha256(self._text + body).hexdigest()
        self._add(body + f"  sha256: {digest}\n".encode())
        self.entries = read(self._text)
        return self.entries[-1]

    def sign(self, key: PrivateKey) -> Path:
        """Sign everything so far; answers where the signature is. Raises ``CeremonyError``."""
        _, signature = signatures.sign_tbs(key, self._text)
        path = self.path.with_name(f"{self.path.name}.{len(self.entries)}.sig")
        try:
            with path.open("wb") as file:
                file.write(signature)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise CeremonyError(f"{path}: {error.strerror}") from None
        return path

    def _add(self, octets: bytes) -> None:
        try:
            view = memoryview(octets)
            while view:
                view = view[os.write(self._fd, view) :]
            os.fsync(self._fd)
        except OSError as error:
            raise CeremonyError(f"{self.path}: {error.strerror}") from None
        self._text += octets

    def close(self) -> None:
        os.close(self._fd)


def one_line(text: str) -> str:
    """Text in which nothing moves a cursor or ends a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def signed_up_to(path: Path, text: bytes, entries: list[Entry], certificate: bytes) -> int:
    """The last entry that a signature of the root covers; 0 without one.

    Raises ``CeremonyError`` for a signature that is not valid, or is over more than there is.
    """
    facts = parse_certificate(certificate)
    key = public_key(facts_of(facts.spki))
    algorithm = signatures.algorithm_for(key)
    last = 0
    for file in sorted(path.parent.glob(f"{path.name}.*.sig")):
        middle = file.name.removeprefix(f"{path.name}.").removesuffix(".sig")
        if not middle.isdecimal():
            continue
        number = int(middle)
        if not 1 <= number <= len(entries):
            raise CeremonyError(f"{file.name} is over entry {number}, and the transcript ends before that")
        try:
            signatures.verify(key, algorithm, file.read_bytes(), text[: entries[number - 1].end])
        except signatures.SignatureError:
            raise CeremonyError(f"{file.name} is not this root's signature over the transcript") from None
        except OSError as error:
            raise CeremonyError(f"{file}: {error.strerror}") from None
        last = max(last, number)
    return last
