"""The ceremonies themselves: each step is checked, shown, agreed to, done, and written down.

The root's file and everything that was signed are in place before a step counts as done, and the root's file
knows of a certificate before the certificate leaves: a ceremony that is broken off loses nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certloom.ceremony import certificates, custody, files, machine
from certloom.ceremony.certificates import Draft
from certloom.ceremony.errors import CeremonyError
from certloom.ceremony.files import Issued, Revoked, RootFile, ShareFile, Sharing
from certloom.ceremony.script import REASONS, NewHolder, Script
from certloom.ceremony.transcript import Transcript
from certloom.clock import Clock
from certloom.pki.certificates import parse_certificate
from certloom.pki.keys import PrivateKey, generate
from certloom.pki.names import format_name
from certloom.pki.pem import to_pem
from certloom.secrets import WrongPassphrase

ROOT = "root.json"
CERTIFICATE = "root.pem"
TRANSCRIPT = "transcript.txt"
_TRIES = 3


class Desk(Protocol):
    """The people at the table, or the files that stand in for them at a rehearsal."""

    rehearsal: bool
    """Whether passphrases come from files: nobody is asked anything."""

    def say(self, text: str) -> None: ...

    def agree(self, question: str) -> None:
        """Raises ``CeremonyError`` unless people say yes."""

    def passphrase(self, holder: str, file: str) -> str:
        """The holder's; ``file`` has it at a rehearsal. Raises ``CeremonyError``."""

    def new_passphrase(self, holder: str, file: str) -> str: ...


class Ceremony:
    """One ceremony on one root."""

    def __init__(self, script: Script, folder: Path, clock: Clock, desk: Desk) -> None:
        """``folder`` is what the script's paths are relative to. Raises ``CeremonyError``."""
        self._script = script
        self._folder = folder
        self._clock = clock
        self._desk = desk
        self.directory = folder / script.directory
        files.check_directory(self.directory)
        self._warnings = machine.prepare()
        self._transcript: Transcript | None = None
        self._key: PrivateKey | None = None
        """The root's key, once shares have opened it."""

    # -- the four ceremonies -----------------------------------------------------------------------------

    def root(self) -> Path:
        """Make a root: its key, its certificate, its shares. Answers where the root's file is."""
        terms = self._script.root
        if terms is None:
            raise CeremonyError("the script has no [root]")
        custody.check_sharing(self._script.threshold, [holder.name for holder in self._script.holders])
        places = self._share_places()
        for path in (self.directory / ROOT, self.directory / CERTIFICATE, *places):
            if path.exists():
                raise CeremonyError(f"{path} exists already")
            if path.parent != self.directory:
                files.check_directory(path.parent)
        with _Session(self, "root") as transcript:
            try:
                key = generate(terms.algorithm)
            except ValueError as error:
                raise CeremonyError(str(error)) from None
            draft = certificates.draft_root(terms, key, self._clock.now())
            self._show("The root's certificate", draft)
            self._desk.agree("Make this root?")
            certificate = certificates.sign(draft, key)
            transcript.add(
                self._clock.now(),
                "root key and certificate made",
                [("algorithm", terms.algorithm), *draft.describe(), ("certificate", _hash(certificate))],
            )
            wrapping, sharing, shares = self._share_out(custody.spki_sha256(certificate))
            root = RootFile(format=files.ROOT_FORMAT, certificate=certificate, sharing=sharing)
            self._write_shares(root, key, wrapping, shares, places)
            self._write_root(root, key, wrapping, over=False)
            self._write(self.directory / CERTIFICATE, to_pem(certificate))
            transcript.add(self._clock.now(), "ceremony ends")
            self._sign_transcript(key)
        return self.directory / ROOT

    def sign(self) -> list[Path]:
        """Certify what the script names. Answers where the certificates are."""
        if not self._script.certify:
            raise CeremonyError("nothing to certify: the script has no [[certify]]")
        written = []
        for each in self._script.certify:
            if (self._folder / each.out).exists():
                raise CeremonyError(f"{self._folder / each.out} exists already")
        with _Session(self, "sign") as transcript:
            root, key, wrapping = self._open()
            for each in self._script.certify:
                source = self._folder / (each.csr or each.certificate)
                asked = files.read(source)
                draft = certificates.draft_certificate(
                    each, _der(asked, source, bool(each.csr)), root.certificate, self._clock.now()
                )
                self._show(f"From {source}, {_hash(asked)}", draft)
                self._desk.agree("Sign this certificate?")
                made = certificates.sign(draft, key)
                facts = parse_certificate(made)
                issued = Issued(
                    facts.serial.hex(), format_name(facts.subject), facts.not_after, facts.sha256.hex()
                )
                transcript.add(
                    self._clock.now(),
                    "certificate signed",
                    [
                        ("read", _file(source, asked)),
                        *draft.describe(),
                        ("certificate", _hash(made)),
                    ],
                )
                root = self._write_root(
                    msgspec.structs.replace(root, issued=(*root.issued, issued)), key, wrapping
                )
                self._write(self._folder / each.out, to_pem(made))
                written.append(self._folder / each.out)
            transcript.add(self._clock.now(), "ceremony ends")
            self._sign_transcript(key)
        return written

    def crl(self) -> Path:
        """Sign the root's CRL, with what the script revokes. Answers where it is."""
        wanted = self._script.crl
        if wanted is None:
            raise CeremonyError("the script has no [crl]")
        with _Session(self, "crl") as transcript:
            root, key, wrapping = self._open()
            now = self._clock.now()
            revoked = self._revoked(root, now)
            number = max(now, root.crl_number + 1)
            serials = [("revoked", f"{r.serial} reason {r.reason}") for r in revoked]
            self._lines(f"CRL number {number}, good for {wanted.days} days", serials or [("revoked", "none")])
            self._desk.agree("Sign this CRL?")
            made = certificates.sign_crl(key, root.certificate, revoked, number, now, wanted.days)
            transcript.add(
                self._clock.now(),
                "CRL signed",
                [
                    ("number", number),
                    ("next update", certificates.text_of(now + wanted.days * certificates.DAY)),
                    *serials,
                    ("crl", _hash(made)),
                ],
            )
            self._write_root(msgspec.structs.replace(root, revoked=revoked, crl_number=number), key, wrapping)
            out = self._folder / wanted.out
            self._write(out, to_pem(made, "X509 CRL") if out.suffix == ".pem" else made, over=True)
            transcript.add(self._clock.now(), "ceremony ends")
            self._sign_transcript(key)
        return out

    def reshare(self) -> list[Path]:
        """Give the key's shares to new holders. Answers where the shares are."""
        custody.check_sharing(self._script.threshold, [holder.name for holder in self._script.holders])
        places = self._share_places()
        for path in places:
            if path.exists():
                raise CeremonyError(f"{path} exists already")
            files.check_directory(path.parent)
        with _Session(self, "reshare") as transcript:
            root, key, _ = self._open()
            self._desk.agree(
                f"Replace the shares of {', '.join(h.name for h in root.sharing.holders)} by new ones, of"
                f" which {self._script.threshold} are needed, for"
                f" {', '.join(h.name for h in self._script.holders)}?"
            )
            wrapping, sharing, shares = self._share_out(custody.spki_sha256(root.certificate))
            root = msgspec.structs.replace(root, sharing=sharing)
            self._write_shares(root, key, wrapping, shares, places)
            self._write_root(root, key, wrapping)
            transcript.add(self._clock.now(), "ceremony ends")
            self._sign_transcript(key)
        return places

    # -- shares ------------------------------------------------------------------------------------------

    def _share_places(self) -> list[Path]:
        places = [
            self._folder / holder.share if holder.share else self.directory / f"share-{number}.json"
            for number, holder in enumerate(self._script.holders, 1)
        ]
        if len(set(places)) != len(places):
            raise CeremonyError("two shares in one file")
        return places

    def _share_out(self, root: str) -> tuple[bytes, Sharing, list[tuple[ShareFile, str]]]:
        people = [(h.name, self._new_passphrase(h)) for h in self._script.holders]
        wrapping, sharing, shares = custody.share_out(root, self._script.threshold, people)
        return wrapping, sharing, [(share, p) for share, (_, p) in zip(shares, people, strict=True)]

    def _new_passphrase(self, holder: NewHolder) -> str:
        return self._desk.new_passphrase(holder.name, self._of(holder.passphrase_file))

    def _of(self, file: str) -> str:
        return str(self._folder / file) if file else ""

    def _write_shares(
        self,
        root: RootFile,
        key: PrivateKey,
        wrapping: bytes,
        shares: list[tuple[ShareFile, str]],
        places: list[Path],
    ) -> None:
        """Put them on disk, and see that what is there opens the key, the first of them and the last."""
        locked = custody.lock(root, key, wrapping)
        opened = {}
        for (share, chosen), place in zip(shares, places, strict=True):
            text = files.encode(share)
            self._write(place, text, private=True)
            back = files.decode(files.read(place), ShareFile, str(place))
            opened[back.number] = custody.open_share(locked, back, chosen)
        needed = root.sharing.threshold
        for some in (list(opened)[:needed], list(opened)[-needed:]):
            custody.unlock(locked, {number: opened[number] for number in some})
        self.transcript.add(
            self._clock.now(),
            "shares made",
            [
                ("needed", f"{needed} of {len(shares)}"),
                ("sharing", root.sharing.id),
                *(("share", f"{s.number} {s.holder} {p}") for (s, _), p in zip(shares, places, strict=True)),
            ],
        )

    def _open(self) -> tuple[RootFile, PrivateKey, bytes]:
        """The root with its key, by the shares that the script names."""
        path = self.directory / ROOT
        text = files.read(path)
        root = files.decode(text, RootFile, str(path))
        fields = [("read", _file(path, text))]
        shares: dict[int, ShareFile] = {}
        for name in self._script.shares:
            place = self._folder / name
            found = files.read(place)
            share = files.decode(found, ShareFile, str(place))
            custody.check_share(root, share)
            if share.number in shares:
                raise CeremonyError(f"the share of {share.holder} twice")
            shares[share.number] = share
            fields.append(("read", _file(place, found)))
        if lacking := custody.missing(root, shares):
            raise CeremonyError(lacking)
        opened = {number: self._open_share(root, share) for number, share in shares.items()}
        key, wrapping = custody.unlock(root, opened)
        self._key = key
        fields += [("share of", share.holder) for share in shares.values()]
        self.transcript.add(self._clock.now(), "root key opened", fields)
        return root, key, wrapping

    def _open_share(self, root: RootFile, share: ShareFile) -> bytes:
        for left in reversed(range(1 if self._desk.rehearsal else _TRIES)):
            try:
                chosen = self._desk.passphrase(
                    share.holder, self._of(self._script.passphrases.get(share.holder, ""))
                )
                return custody.open_share(root, share, chosen)
            except WrongPassphrase:
                self.transcript.add(
                    self._clock.now(), "wrong passphrase", [("share of", share.holder), ("tries left", left)]
                )
                self._desk.say(f"That is not the passphrase of {share.holder}'s share.")
        raise CeremonyError(f"wrong passphrase for the share of {share.holder}")

    # -- the rest ----------------------------------------------------------------------------------------

    def _revoked(self, root: RootFile, now: int) -> tuple[Revoked, ...]:
        issued = {each.serial for each in root.issued}
        found = {each.serial: each for each in root.revoked}
        for each in self._script.revoke:
            serial = each.serial.replace(":", "").lower()
            if serial not in issued:
                raise CeremonyError(f"this root has signed no certificate with the serial number {serial}")
            if serial in found:
                raise CeremonyError(f"the certificate {serial} is revoked already")
            found[serial] = Revoked(serial, now, REASONS[each.reason])
        return tuple(found.values())

    def _write_root(self, root: RootFile, key: PrivateKey, wrapping: bytes, *, over: bool = True) -> RootFile:
        last = self.transcript.entries[-1]
        root = msgspec.structs.replace(root, transcript_entry=last.number, transcript_sha256=last.sha256)
        root = custody.lock(root, key, wrapping)
        self._write(self.directory / ROOT, files.encode(root), private=True, over=over)
        return root

    def _write(self, path: Path, text: bytes, *, private: bool = False, over: bool = False) -> None:
        files.write(path, text, private=private, over=over)
        self.transcript.add(self._clock.now(), "file written", [("written", _file(path, text))])

    def _sign_transcript(self, key: PrivateKey) -> None:
        signature = self.transcript.sign(key)
        self._desk.say(f"Transcript: {self.transcript.path}, signed by the root in {signature.name}")

    @property
    def transcript(self) -> Transcript:
        """That of this ceremony, once it has begun."""
        assert self._transcript is not None
        return self._transcript

    def _show(self, title: str, draft: Draft) -> None:
        self._lines(title, draft.describe())

    def _lines(self, title: str, pairs: Iterable[tuple[str, object]]) -> None:
        self._desk.say("\n".join([title, *(f"  {name}: {value}" for name, value in pairs)]))

    def begin(self, command: str) -> Transcript:
        """Open the transcript and write down who is there, and where."""
        for warning in self._warnings:
            self._desk.say(f"Warning: {warning}")
        self._desk.say(f"The clock of this machine says {certificates.text_of(self._clock.now())}.")
        if self._warnings:
            self._desk.agree("Go on all the same?")
        self._desk.agree("Is the clock right?")
        self._transcript = Transcript(self.directory / TRANSCRIPT)
        script = self._script
        self._transcript.add(
            self._clock.now(),
            "ceremony begins",
            [
                ("command", command),
                ("rehearsal", "yes: passphrases come from files" if self._desk.rehearsal else "no"),
                *((n, v) for n, v in (("purpose", script.purpose), ("place", script.place)) if v),
                *(("present", f"{person.name} ({person.role})") for person in script.present),
                *machine.facts(),
                *(("warning", warning) for warning in self._warnings),
            ],
        )
        return self._transcript

    def end(self, error: BaseException | None) -> None:
        """Close the transcript; a ceremony that came to nothing is written down too."""
        if self._transcript is None:
            return
        try:
            if error is not None:
                why = str(error) if isinstance(error, CeremonyError) else type(error).__name__
                self._transcript.add(self._clock.now(), "ceremony broken off", [("why", why)])
                if self._key is not None:
                    self._sign_transcript(self._key)
        finally:
            self._transcript.close()


class _Session:
    def __init__(self, ceremony: Ceremony, command: str) -> None:
        self._ceremony = ceremony
        self._command = command

    def __enter__(self) -> Transcript:
        return self._ceremony.begin(self._command)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._ceremony.end(error)


def _hash(octets: bytes) -> str:
    return f"SHA-256 {hashlib.sha256(octets).hexdigest()}"


def _file(path: Path, octets: bytes) -> str:
    return f"{path} {len(octets)} octets {_hash(octets)}"


def _der(text: bytes, path: Path, request: bool) -> bytes:
    """DER of a request or certificate in PEM or DER. Raises ``CeremonyError``."""
    try:
        if not text.lstrip().startswith(b"-----"):
            return text
        if request:
            return x509.load_pem_x509_csr(text).public_bytes(Encoding.DER)
        return x509.load_pem_x509_certificate(text).public_bytes(Encoding.DER)
    except ValueError as error:
        raise CeremonyError(
            f"{path} holds no PEM {'request' if request else 'certificate'}: {error}"
        ) from None
