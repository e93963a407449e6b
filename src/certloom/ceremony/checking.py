"""Checking what ceremonies left: the root's file, shares, the transcript; by anybody, without the key."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from certloom.authorities.lint import lint_certificate
from certloom.ceremony import custody, files, transcript
from certloom.ceremony.errors import CeremonyError
from certloom.ceremony.files import RootFile, ShareFile
from certloom.ceremony.steps import ROOT, TRANSCRIPT, Desk
from certloom.ceremony.transcript import Entry
from certloom.pki.certificates import parse_certificate
from certloom.pki.names import format_name
from certloom.pki.paths import is_self_signed
from certloom.secrets import WrongPassphrase

_WRITTEN = re.compile(r"(.*) [0-9]+ octets SHA-256 ([0-9a-f]{64})")


def check(directory: Path, shares: Sequence[Path], desk: Desk | None = None) -> tuple[list[str], list[str]]:
    """What was found in order, and what was not. With ``desk`` holders open their shares, one by one: nothing
    is put together. Raises ``CeremonyError`` when there is nothing to check."""
    good: list[str] = []
    bad: list[str] = []
    path = directory / ROOT
    text = files.read(path)
    root = files.decode(text, RootFile, str(path))
    _check_root(root, good, bad)
    numbers = set()
    for place in shares:
        try:
            numbers.add(_check_share(root, place, desk, good))
        except CeremonyError as error:
            bad.append(f"{place}: {error}")
    lacking = custody.missing(root, numbers)
    if shares:
        (bad if lacking else good).append(lacking or f"{len(numbers)} shares are here, which is enough")
    _check_transcript(root, directory / TRANSCRIPT, hashlib.sha256(text).hexdigest(), good, bad)
    return good, bad


def _check_root(root: RootFile, good: list[str], bad: list[str]) -> None:
    facts = parse_certificate(root.certificate)
    if is_self_signed(root.certificate):
        good.append(f"root {format_name(facts.subject)}, SHA-256 {facts.sha256.hex()}: signed by itself")
    else:
        bad.append("the root's certificate is not signed by its own key")
    for finding in lint_certificate(root.certificate, "error"):
        bad.append(f"the linter objects to the root: {finding.code} {finding.message}")
    holders = ", ".join(holder.name for holder in root.sharing.holders)
    good.append(f"{root.sharing.threshold} of {len(root.sharing.holders)} shares are needed: {holders}")
    good.append(f"certified: {len(root.issued)}; revoked: {len(root.revoked)}; last CRL: {root.crl_number}")


def _check_share(root: RootFile, place: Path, desk: Desk | None, good: list[str]) -> int:
    share = files.decode(files.read(place), ShareFile, str(place))
    custody.check_share(root, share)
    if desk is None:
        good.append(f"{place}: share {share.number}, of {share.holder}")
        return share.number
    try:
        custody.open_share(root, share, desk.passphrase(share.holder, ""))
    except WrongPassphrase:
        raise CeremonyError(f"wrong passphrase for the share of {share.holder}") from None
    good.append(f"{place}: share {share.number}, of {share.holder}: opens, and is the one given out")
    return share.number


def _check_transcript(root: RootFile, path: Path, root_sha256: str, good: list[str], bad: list[str]) -> None:
    try:
        text = files.read(path)
        entries = transcript.read(text)
        signed = transcript.signed_up_to(path, text, entries, root.certificate)
    except CeremonyError as error:
        bad.append(f"{path}: {error}")
        return
    good.append(f"{path}: {len(entries)} entries, none altered")
    if signed:
        good.append(f"{path}: signed by the root up to entry {signed}")
    else:
        bad.append(f"{path}: no signature of the root lies beside it")
    after = entries[signed:]
    if any(entry.what not in _WITHOUT_KEY for entry in after):
        bad.append(f"{path}: what follows entry {signed} is not signed by the root")
    elif after:
        good.append(f"{path}: {len(after)} entries since, of ceremonies that were broken off")
    known = root.transcript_entry
    if known > len(entries) or entries[known - 1].sha256 != root.transcript_sha256:
        bad.append(f"{path}: not the transcript that the root's file was written with, or cut short")
    certificate = hashlib.sha256(root.certificate).hexdigest()
    if not any(("certificate", f"SHA-256 {certificate}") in entry.fields for entry in entries):
        bad.append(f"{path}: does not tell of this root's certificate")
    if _last_written(entries) != root_sha256:
        bad.append(f"{path}: the root's file is not the one that was written last")
    else:
        good.append("the root's file is the one that was written last")


_WITHOUT_KEY = frozenset({"ceremony begins", "ceremony broken off", "wrong passphrase"})


def _last_written(entries: Sequence[Entry]) -> str:
    for entry in reversed(entries):
        for name, value in entry.fields:
            found = _WRITTEN.fullmatch(value)
            if name == "written" and found and Path(found[1]).name == ROOT:
                return found[2]
    return ""
