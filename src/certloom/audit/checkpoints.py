"""Signed checkpoints: "the event with this number has this hash", under a key that signs nothing else.

What is signed is this text, in ASCII, each line ended by a line feed:

    certloom audit checkpoint v1
    log LOG
    sequence NUMBER
    hash HEX
    base NUMBER
    time SECONDS
    key ID

``LOG`` is random and the installation's own, so that a checkpoint of one cannot stand for another's.
``base`` is the last event that retention had removed then (0 for none). ``ID`` is the SHA-256 of the public
key's SubjectPublicKeyInfo. The signature is Ed25519 (RFC 8032). As each hash stands on all before it, one
checkpoint kept elsewhere vouches for the whole log up to its place, whatever becomes of the database.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Callable

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from certloom.audit.chain import START
from certloom.clock import Clock
from certloom.secrets import DataKey
from certloom.store import authorities as key_statements
from certloom.store import checkpoints as statements
from certloom.store import events
from certloom.store.authorities import StoredKey
from certloom.store.base import Store, Tx
from certloom.store.checkpoints import StoredCheckpoint
from certloom.store.events import Mark
from certloom.store.ids import new_id

PURPOSE = "audit-checkpoints"


class CheckpointError(Exception):
    """A checkpoint cannot be made or believed; the message says why."""


class Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A signed place in the chain."""

    log: str
    sequence: int
    hash: str
    """Hexadecimal."""
    base: int
    at: int
    """Unix seconds."""
    key: str
    """SHA-256 of the public key's SubjectPublicKeyInfo, hexadecimal."""
    signature: str
    """Base64."""


def signed_text(log: str, sequence: int, hash: str, base: int, at: int, key: str) -> bytes:
    """What a checkpoint's signature is over."""
    return (
        f"certloom audit checkpoint v1\nlog {log}\nsequence {sequence}\nhash {hash}\n"
        f"base {base}\ntime {at}\nkey {key}\n"
    ).encode()


def key_id(public_key: Ed25519PublicKey) -> str:
    """What checkpoints call a key."""
    return hashlib.sha256(_spki(public_key)).hexdigest()


def public_pem(public_key: Ed25519PublicKey) -> bytes:
    """The key as others verify with it."""
    return public_key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def load_public(data: bytes) -> Ed25519PublicKey:
    """An Ed25519 public key from PEM or DER. Raises ``CheckpointError``."""
    try:
        if data.lstrip().startswith(b"-----"):
            key = serialization.load_pem_public_key(data)
        else:
            key = serialization.load_der_public_key(data)
    except Exception as error:
        raise CheckpointError("this is not a public key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise CheckpointError("this is not an Ed25519 public key")
    return key


def check(checkpoint: Checkpoint, public_key: Ed25519PublicKey) -> None:
    """Raises ``CheckpointError`` unless this key signed exactly this."""
    if checkpoint.key != key_id(public_key):
        raise CheckpointError("the checkpoint was signed with another key")
    try:
        signature = base64.b64decode(checkpoint.signature, validate=True)
        public_key.verify(signature, _text(checkpoint))
    except (InvalidSignature, binascii.Error, ValueError, UnicodeEncodeError):
        raise CheckpointError("the checkpoint's signature is wrong") from None


def parse(data: bytes) -> Checkpoint:
    """A checkpoint as JSON: alone, or as the last line of an export. Raises ``CheckpointError``."""
    text = data.strip()
    try:
        fields = msgspec.json.decode(text)
    except msgspec.DecodeError:
        try:
            fields = msgspec.json.decode(text[text.rfind(b"\n") + 1 :])
        except msgspec.DecodeError:
            raise CheckpointError("this is not a checkpoint") from None
    if isinstance(fields, dict):
        fields.pop("type", None)
    try:
        return msgspec.convert(fields, Checkpoint)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"this is not a checkpoint: {error}") from None


def _text(c: Checkpoint) -> bytes:
    return signed_text(c.log, c.sequence, c.hash, c.base, c.at, c.key)


def _spki(public_key: Ed25519PublicKey) -> bytes:
    return public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def shown(stored: StoredCheckpoint, log: str) -> Checkpoint:
    """A stored checkpoint as it leaves."""
    return Checkpoint(
        log,
        stored.sequence,
        stored.hash.hex(),
        stored.base,
        stored.at,
        stored.key_id,
        base64.b64encode(stored.signature).decode(),
    )


class _Signer(msgspec.Struct, frozen=True):
    """The key in use, open."""

    log: str
    private_key: Ed25519PrivateKey
    id: str
    public: Ed25519PublicKey


class Checkpoints:
    """Signs places of one store's log. The key is made when it is first needed, and sealed."""

    def __init__(self, store: Store, clock: Clock, data_key: DataKey) -> None:
        self._store = store
        self._clock = clock
        self._data_key = data_key
        self._opened: _Signer | None = None

    async def log(self) -> str:
        """This installation's log's name."""
        return (await self._signer()).log

    async def public_key(self) -> Ed25519PublicKey:
        """The key that checkpoints are verified with."""
        return (await self._signer()).public

    async def make(self, also: Callable[[Tx, Checkpoint], None] | None = None) -> Checkpoint:
        """Sign the end of the chain as it is now; the one that is there already if it did not move.

        ``also`` runs in the unit that stores it.
        """
        return await self._make(lambda tx: events.mark(tx, events.HEAD) or START, also)

    async def make_at(self, sequence: int) -> Checkpoint:
        """Sign an earlier place. Raises ``CheckpointError`` where there is no such event."""

        def place(tx: Tx) -> Mark:
            for mark in (START, events.mark(tx, events.BASE)):
                if mark is not None and mark.sequence == sequence:
                    return mark
            found = events.hash_at(tx, sequence)
            if found is None:
                raise CheckpointError(f"there is no event {sequence} in the chain")
            return Mark(sequence, found.hex())

        return await self._make(place)

    async def keep(self) -> None:
        """Sign the end of the chain if it moved since the last time. Run it at intervals."""

        def moved(tx: Tx) -> bool:
            head = events.mark(tx, events.HEAD)
            return head is not None and statements.at(tx, head.sequence) is None

        if await self._store.read(moved):
            await self.make()

    async def newest(self, limit: int, before: int | None = None) -> list[Checkpoint]:
        """The last ones, highest place first."""
        signer = await self._signer()
        rows = await self._store.read(lambda tx: statements.newest(tx, limit, before))
        return [shown(row, signer.log) for row in rows]

    async def _make(
        self, place: Callable[[Tx], Mark], also: Callable[[Tx, Checkpoint], None] | None = None
    ) -> Checkpoint:
        signer = await self._signer()

        def unit(tx: Tx) -> Checkpoint:
            checkpoint = shown(stored(tx), signer.log)
            if also is not None:
                also(tx, checkpoint)
            return checkpoint

        def stored(tx: Tx) -> StoredCheckpoint:
            mark = place(tx)
            known = statements.at(tx, mark.sequence)
            if known is not None and known.hash.hex() == mark.hash and known.key_id == signer.id:
                return known
            base = events.mark(tx, events.BASE) or START
            at = self._clock.now()
            text = signed_text(signer.log, mark.sequence, mark.hash, base.sequence, at, signer.id)
            made = StoredCheckpoint(
                mark.sequence,
                bytes.fromhex(mark.hash),
                base.sequence,
                at,
                signer.id,
                signer.private_key.sign(text),
            )
            statements.insert(tx, made)
            return made

        return await self._store.write(unit)

    async def _signer(self) -> _Signer:
        if self._opened is None:

            def known(tx: Tx) -> tuple[str | None, StoredKey | None]:
                id = statements.key_id(tx)
                return statements.log_id(tx), key_statements.key(tx, id) if id else None

            log, stored = await self._store.read(known)
            if log is None or stored is None:
                self._opened = self._open(*await self._store.write(self._settle))
            else:
                self._opened = self._open(log, stored)
        return self._opened

    def _settle(self, tx: Tx) -> tuple[str, StoredKey]:
        """Name the log and make its key, unless another node has just done it."""
        log = statements.settle_log_id(tx, secrets.token_hex(16))
        id = new_id(self._clock.now_ms())
        settled = statements.settle_key_id(tx, id)
        if settled == id:
            key_statements.insert_key(tx, self._new_key(id))
        stored = key_statements.key(tx, settled)
        if stored is None:
            raise CheckpointError("the key that signs checkpoints is gone from the database")
        return log, stored

    def _new_key(self, id: str) -> StoredKey:
        key = Ed25519PrivateKey.generate()
        return StoredKey(
            id=id,
            purpose=PURPOSE,
            spki=_spki(key.public_key()),
            sealed=self._data_key.seal(f"{PURPOSE}:{id}", key.private_bytes_raw()),
            created=self._clock.now(),
        )

    def _open(self, log: str, stored: StoredKey) -> _Signer:
        raw = self._data_key.open(f"{PURPOSE}:{stored.id}", stored.sealed)
        key = Ed25519PrivateKey.from_private_bytes(raw)
        public = key.public_key()
        return _Signer(log, key, key_id(public), public)
