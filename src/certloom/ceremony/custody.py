"""A root's key under lock: sealed under a wrapping key, whose shares are each sealed under a passphrase.

private key ── AES-256-GCM ── wrapping key ── Shamir ──┬─ share 1 ── argon2id, AES-256-GCM ── passphrase 1
                                                       ├─ share 2 ── ...
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from certloom.ceremony import shamir
from certloom.ceremony.errors import CeremonyError
from certloom.ceremony.files import SHARE_FORMAT, Holder, RootFile, ShareFile, Sharing, authenticated
from certloom.pki.certificates import parse_certificate
from certloom.pki.keys import KeyRejected, PrivateKey, private_from_der, private_to_der, spki_of
from certloom.secrets import SecretError, passphrase

_KEY = 32
_NONCE = 12
MOST_HOLDERS = 32


def spki_sha256(certificate: bytes) -> str:
    """Which root this is."""
    return hashlib.sha256(parse_certificate(certificate).spki).hexdigest()


def share_out(
    root: str, threshold: int, holders: Sequence[tuple[str, str]]
) -> tuple[bytes, Sharing, list[ShareFile]]:
    """A new wrapping key and its shares, for holders by name and passphrase; ``root`` is its SPKI's hash.

    Raises ``CeremonyError``.
    """
    check_sharing(threshold, [name for name, _ in holders])
    wrapping = secrets.token_bytes(_KEY)
    id = secrets.token_hex(8)
    values = shamir.split(wrapping, threshold, len(holders))
    named, files = [], []
    for (number, value), (name, chosen) in zip(values.items(), holders, strict=True):
        named.append(Holder(name, _commitment(id, number, value)))
        blank = passphrase.SealedUnderPassphrase(b"", 0, 0, 0, b"", b"")
        file = ShareFile(
            format=SHARE_FORMAT,
            root=root,
            sharing=id,
            number=number,
            of=len(holders),
            threshold=threshold,
            holder=name,
            sealed=blank,
        )
        try:
            passphrase.check_new(chosen)
            sealed = passphrase.seal(chosen, file.purpose, value)
        except SecretError as error:
            raise CeremonyError(f"the passphrase of {name}: {error}") from None
        files.append(msgspec.structs.replace(file, sealed=sealed))
    return wrapping, Sharing(id, threshold, tuple(named)), files


def check_sharing(threshold: int, names: Sequence[str]) -> None:
    """Raises ``CeremonyError`` for what is no sharing."""
    if not 1 <= threshold <= len(names) <= MOST_HOLDERS:
        raise CeremonyError(
            f"of {len(names)} shares {threshold} cannot be needed; there are at most {MOST_HOLDERS} shares"
        )
    if len(set(names)) != len(names):
        raise CeremonyError("two holders of the same name")
    for name in names:
        if not name.strip() or not name.isprintable() or len(name) > 100:
            raise CeremonyError(f"a holder's name is 1 to 100 printable characters, not {name!r}")


def _commitment(sharing: str, number: int, value: bytes) -> str:
    return hashlib.sha256(f"certloom share {sharing} {number} ".encode() + value).hexdigest()


def check_share(root: RootFile, share: ShareFile) -> None:
    """See that a share file is of this root's sharing. Raises ``CeremonyError``."""
    sharing = root.sharing
    of = f"the share of {share.holder!r}"
    if share.root != spki_sha256(root.certificate):
        raise CeremonyError(f"{of} belongs to another root")
    if share.sharing != sharing.id:
        raise CeremonyError(f"{of} is of another sharing of this root's key: it was shared anew")
    if (
        not 1 <= share.number <= len(sharing.holders)
        or sharing.holders[share.number - 1].name != share.holder
    ):
        raise CeremonyError(f"{of} is not among those of this root")


def open_share(root: RootFile, share: ShareFile, chosen: str) -> bytes:
    """The share itself. Raises ``WrongPassphrase``, and ``CeremonyError`` when it is not the one that was
    given out."""
    check_share(root, share)
    value = passphrase.unseal(chosen, share.purpose, share.sealed)
    commitment = root.sharing.holders[share.number - 1].commitment
    if not hmac.compare_digest(_commitment(share.sharing, share.number, value), commitment):
        raise CeremonyError(f"the share of {share.holder!r} is not the one that was given out")
    return value


def missing(root: RootFile, numbers: Iterable[int]) -> str:
    """What lacks to open the key, in words; empty if nothing does."""
    there = set(numbers)
    needed = root.sharing.threshold
    if len(there) >= needed:
        return ""
    absent = [h.name for i, h in enumerate(root.sharing.holders, 1) if i not in there]
    return f"{needed} shares are needed and {len(there)} are here; not here: {', '.join(absent)}"


def lock(root: RootFile, key: PrivateKey, wrapping: bytes) -> RootFile:
    """The root's file with its key sealed, and all else authenticated."""
    nonce = secrets.token_bytes(_NONCE)
    sealed = AESGCM(wrapping).encrypt(nonce, private_to_der(key), authenticated(root))
    return msgspec.structs.replace(root, nonce=nonce, sealed_key=sealed)


def unlock(root: RootFile, shares: Mapping[int, bytes]) -> tuple[PrivateKey, bytes]:
    """The root's key, and the wrapping key, from open shares by their numbers. Raises ``CeremonyError``."""
    if lacking := missing(root, shares):
        raise CeremonyError(lacking)
    wrapping = shamir.combine(shares)
    try:
        key = private_from_der(AESGCM(wrapping).decrypt(root.nonce, root.sealed_key, authenticated(root)))
    except (InvalidTag, ValueError):
        raise CeremonyError(
            "the root's file was changed since it was written: its shares are right, and do not open it"
        ) from None
    except KeyRejected:
        raise CeremonyError("what the root's file holds is not a key") from None
    if hashlib.sha256(spki_of(key)).hexdigest() != spki_sha256(root.certificate):
        raise CeremonyError("the key in the root's file is not that of its certificate")
    return key, wrapping
