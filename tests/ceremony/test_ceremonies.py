"""Whole ceremonies, on the command line and without a network: what comes out, and what does not."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography import x509

from certloom.ceremony.errors import CeremonyError
from certloom.ceremony.script import parse
from tests.cli.shell import Shell
from tests.strangers import installed, said

COMMAND = Path(sys.executable).with_name("certloom")
HOLDERS = ("Joan Clarke", "Alan Turing", "Mavis Batey")
ROOT = """
purpose = "A test"
place = "Berlin"
directory = "root"
threshold = 2

[[present]]
name = "Grace Hopper"
role = "auditor"

[root]
subject = "CN=Ceremony Root,O=Example"
algorithm = "{algorithm}"
days = 7300
path_length = 1
"""


class Room:
    """The folder of a rehearsal, on a machine with no network where that can be had."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "root").mkdir(mode=0o700)
        self.offline = ["unshare", "--net"] if os.geteuid() == 0 else []

    def __call__(self, *words: str, status: int = 0) -> str:
        done = subprocess.run(
            [*self.offline, COMMAND, "ceremony", *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        text = done.stdout + done.stderr
        assert done.returncode == status, text
        return text

    def script(self, name: str, text: str, opened_by: tuple[int, ...] = ()) -> str:
        """Write a script, with the shares and passphrases that open the key."""
        shares = ", ".join(f'"root/share-{number}.json"' for number in opened_by)
        lines = [f"shares = [{shares}]"] if opened_by else []
        secrets = [f'"{HOLDERS[n - 1]}" = "p{n}"' for n in opened_by]
        if "directory" not in text:
            lines.append('directory = "root"')
        (self.folder / name).write_text(
            "\n".join(lines) + "\n" + text + ("\n[passphrases]\n" + "\n".join(secrets) if secrets else "")
        )
        return name

    def passphrases(self, which: str = "passphrase") -> None:
        for number in range(1, len(HOLDERS) + 1):
            file = self.folder / f"p{number}"
            file.write_text(f"the {which} of holder {number}\n")
            file.chmod(0o600)

    def root(self, algorithm: str = "P-384") -> Path:
        self.passphrases()
        holders = "".join(
            f'\n[[holders]]\nname = "{name}"\npassphrase_file = "p{number}"\n'
            for number, name in enumerate(HOLDERS, 1)
        )
        self("root", "--script", self.script("root.toml", ROOT.format(algorithm=algorithm) + holders))
        return self.folder / "root"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root, made once; tests work on copies."""
    room = Room(tmp_path_factory.mktemp("made") / "room")
    room.root()
    return room.folder


@pytest.fixture
def room(made: Path, tmp_path: Path) -> Room:
    copy = object.__new__(Room)
    copy.folder = tmp_path / "room"
    copy.offline = ["unshare", "--net"] if os.geteuid() == 0 else []
    shutil.copytree(made, copy.folder)
    return copy


def openssl(*words: str | Path) -> str:
    fine, text = said([*installed("openssl")], *words)
    assert fine, text
    return text


def test_an_issuing_ca_leaves_as_a_csr_and_comes_back_and_its_leaves_verify(
    room: Room, tmp_path: Path
) -> None:
    """The whole way: root without a network, CA on a server, leaf, the root's CRL."""
    shell = Shell(tmp_path)
    process = shell.serve()
    try:
        csr = room.folder / "sub.csr"
        shell("authority", "request", "sub", "--subject", "CN=Sub CA,O=Example", "-o", str(csr))
        certify = (
            '[[certify]]\ncsr = "sub.csr"\nout = "sub.pem"\ndays = 3650\npath_length = 0\n'
            'crl_url = "http://pki.test/root.crl"\n'
        )
        said_so = room("sign", "--script", room.script("sign.toml", certify, (1, 3)))
        assert "CN=Sub CA,O=Example" in said_so
        root, sub = room.folder / "root" / "root.pem", room.folder / "sub.pem"
        openssl("verify", "-x509_strict", "-CAfile", root, sub)
        chain = room.folder / "chain.pem"
        chain.write_bytes(sub.read_bytes() + root.read_bytes())
        shell("authority", "install", "sub", "--certificate", str(chain))
        declared = tmp_path / "site.toml"
        declared.write_text(
            '[[profiles]]\nname = "leaf"\nauthority = "sub"\nkeys = [{ type = "ec" }]\n'
            'extended_key_usage = ["serverAuth"]\nnames = { types = ["dns"] }\n'
            'validity = { default = "30d" }\n'
        )
        shell("apply", "-f", str(declared))
        openssl(
            *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", tmp_path / "leaf.key", "-out", tmp_path / "leaf.csr", "-subj", "/CN=a.example.com"),
            *("-addext", "subjectAltName=DNS:a.example.com"),
        )
        got = shell.json("request", "submit", "--profile", "leaf", "--csr", str(tmp_path / "leaf.csr"))
        leaf = tmp_path / "leaf.pem"
        leaf.write_text(got["certificate_pem"])
        openssl("verify", "-x509_strict", "-CAfile", root, "-untrusted", sub, leaf)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0

    serial = f"{x509.load_pem_x509_certificate(sub.read_bytes()).serial_number:x}"
    crl = '[crl]\nout = "root.crl.pem"\ndays = 180\n'
    room("crl", "--script", room.script("crl.toml", crl, (2, 3)))
    good = room.folder / "root.crl.pem"
    verify = ("verify", "-crl_check", "-CAfile", root, "-CRLfile")
    openssl(*verify, good, sub)
    revoke = f'[[revoke]]\nserial = "{serial}"\nreason = "cessationOfOperation"\n'
    room("crl", "--script", room.script("crl.toml", revoke + crl, (1, 2)))
    fine, text = said([*installed("openssl")], *verify, good, sub)
    assert not fine
    assert "certificate revoked" in text
    assert "Cessation" in openssl("crl", "-in", good, "-noout", "-text")
    assert "is revoked already" in room("crl", "--script", "crl.toml", status=1)
    none = '[[revoke]]\nserial = "0123"\nreason = "superseded"\n'
    assert "has signed no certificate" in room(
        "crl", "--script", room.script("c.toml", none + crl, (1, 2)), status=1
    )
    checked = room("check", "-d", "root", "--share", "root/share-1.json", "--share", "root/share-3.json")
    assert "BAD" not in checked
    assert "certified: 1; revoked: 1" in checked


@pytest.mark.parametrize("algorithm", ["P-256", "rsa-2048", "ed25519", "ml-dsa-44"])
def test_roots_of_every_kind(algorithm: str, tmp_path: Path) -> None:
    room = Room(tmp_path / "room")
    room.root(algorithm)
    certificate = x509.load_pem_x509_certificate((room.folder / "root/root.pem").read_bytes())
    certificate.verify_directly_issued_by(certificate)
    assert "BAD" not in room("check", "-d", "root")


def test_a_transcript_is_checked_without_this_program(room: Room) -> None:
    """By ``sha256sum`` and ``openssl``, as the manual has it; and it tells what was done, where, by whom."""
    root = room.folder / "root"
    text = (root / "transcript.txt").read_text()
    for told in ("present: Grace Hopper (auditor)", "place: Berlin", "needed: 2 of 3", "rehearsal: yes"):
        assert told in text
    if room.offline:
        assert "networks up: none" in text
    assert "holder 1" not in text, "no passphrase is written down"
    last = re.findall(r"sha256: ([0-9a-f]{64})", text)[-1]
    counted = subprocess.run(
        "head -n -1 transcript.txt | sha256sum",
        shell=True,
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert counted.split()[0] == last
    (signature,) = root.glob("transcript.txt.*.sig")
    openssl("x509", "-in", root / "root.pem", "-pubkey", "-noout", "-out", root / "root.pub")
    openssl("dgst", "-sha384", "-verify", root / "root.pub", "-signature", signature, root / "transcript.txt")


def test_the_source_s_hash_in_the_transcript_is_what_the_manual_computes(room: Room) -> None:
    import certloom

    text = (room.folder / "root" / "transcript.txt").read_text()
    told = re.search(r"its source ([0-9a-f]{64})", text)
    assert told is not None
    command = "find . -name '*.py' | LC_ALL=C sort | xargs sha256sum | sha256sum"
    package = Path(certloom.__file__).parent
    counted = subprocess.run(command, shell=True, cwd=package, capture_output=True, text=True, check=True)
    if told[1] != counted.stdout.split()[0]:
        newest = max(path.stat().st_mtime for path in package.rglob("*.py"))
        made = (room.folder / "root" / "root.json").stat().st_mtime
        assert newest > made, "the source has not changed since"


@pytest.mark.parametrize("what", ["entry", "cut", "signature", "root", "share"])
def test_tampering_is_found_and_named(what: str, room: Room) -> None:
    root = room.folder / "root"
    transcript = root / "transcript.txt"
    match what:
        case "entry":
            transcript.write_text(transcript.read_text().replace("Grace Hopper", "Grace Cooper"))
        case "cut":
            text = transcript.read_text()
            transcript.write_text(text[: text.index("#3 ")])
        case "signature":
            (signature,) = root.glob("transcript.txt.*.sig")
            signature.write_bytes(signature.read_bytes()[:-1] + b"\0")
        case "root":
            text = (root / "root.json").read_text()
            (root / "root.json").write_text(text.replace("Joan Clarke", "Joan Blarke"))
        case "share":
            text = (root / "share-1.json").read_text()
            (root / "share-1.json").write_text(text.replace("Joan Clarke", "Joan Blarke"))
    text = room(
        "check", "-d", "root", "--share", "root/share-1.json", "--share", "root/share-2.json", status=5
    )
    expected = {
        "entry": "altered at entry 1",
        "cut": "the transcript ends before that",
        "signature": "not this root's signature",
        "root": "root.json is damaged",
        "share": "share-1.json is damaged",
    }
    assert expected[what] in text


def test_whoever_rewrites_the_root_file_with_its_checksum_is_found_when_the_shares_come_together(
    room: Room,
) -> None:
    """Its checksum is right again; what is authenticated with the key is not."""
    from certloom.ceremony import files

    path = room.folder / "root" / "root.json"
    root = files.decode(path.read_bytes(), files.RootFile, "root")
    forged = files.Issued("0123", "CN=Never", 0, "00")
    import msgspec

    path.write_bytes(files.encode(msgspec.structs.replace(root, issued=(forged,))))
    crl = '[crl]\nout = "root.crl"\ndays = 180\n'
    text = room("crl", "--script", room.script("crl.toml", crl, (1, 2)), status=1)
    assert "was changed since it was written" in text
    assert not (room.folder / "root.crl").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("one", "2 shares are needed and 1 are here; not here: Alan Turing, Mavis Batey"),
        ("twice", "the share of Joan Clarke twice"),
        ("passphrase", "wrong passphrase for the share of Alan Turing"),
        ("foreign", "belongs to another root"),
        ("swapped", "is not among those of this root"),
    ],
)
def test_the_key_opens_for_the_right_shares_only(
    change: str, expected: str, room: Room, tmp_path: Path
) -> None:
    root = room.folder / "root"
    opened_by: tuple[int, ...] = (1, 2)
    match change:
        case "one":
            opened_by = (1,)
        case "twice":
            opened_by = (1, 1)
        case "passphrase":
            (room.folder / "p2").write_text("the passphrase of somebody else\n")
        case "foreign":
            other = Room(tmp_path / "other")
            shutil.copy(other.root("P-256") / "share-2.json", root / "share-2.json")
        case "swapped":
            import msgspec

            from certloom.ceremony import files

            path = root / "share-2.json"
            share = files.decode(path.read_bytes(), files.ShareFile, "share")
            path.write_bytes(files.encode(msgspec.structs.replace(share, number=3)))
    before = (root / "root.json").read_bytes()
    crl = '[crl]\nout = "root.crl"\ndays = 180\n'
    script = room.script("crl.toml", crl, opened_by)
    if change == "twice":
        text = (room.folder / script).read_text()
        (room.folder / script).write_text(text.replace('"Joan Clarke" = "p1"\n"Joan', '"Joan'))
    assert expected in room("crl", "--script", script, status=1)
    assert not (room.folder / "root.crl").exists()
    assert (root / "root.json").read_bytes() == before
    assert "ceremony broken off" in (root / "transcript.txt").read_text()


def test_new_holders_open_the_key_and_the_old_ones_do_not(room: Room) -> None:
    root = room.folder / "root"
    for number in (1, 2, 3):
        (root / f"share-{number}.json").rename(room.folder / f"old-{number}.json")
    for number in (1, 2):
        file = room.folder / f"n{number}"
        file.write_text(f"a new passphrase for {number}\n")
        file.chmod(0o600)
    text = (
        'shares = ["old-1.json", "old-2.json"]\ndirectory = "root"\nthreshold = 2\n'
        '[passphrases]\n"Joan Clarke" = "p1"\n"Alan Turing" = "p2"\n'
        '[[holders]]\nname = "Ada"\npassphrase_file = "n1"\n'
        '[[holders]]\nname = "Bob"\npassphrase_file = "n2"\n'
    )
    (room.folder / "reshare.toml").write_text(text)
    assert "Destroy the old shares" in room("reshare", "--script", "reshare.toml")
    crl = '[crl]\nout = "root.crl"\ndays = 180\n'
    head = 'directory = "root"\n'
    (room.folder / "old.toml").write_text(
        f'shares = ["old-1.json", "old-2.json"]\n{head}{crl}'
        '[passphrases]\n"Joan Clarke" = "p1"\n"Alan Turing" = "p2"\n'
    )
    assert "it was shared anew" in room("crl", "--script", "old.toml", status=1)
    (room.folder / "new.toml").write_text(
        f'shares = ["root/share-1.json", "root/share-2.json"]\n{head}{crl}'
        '[passphrases]\nAda = "n1"\nBob = "n2"\n'
    )
    room("crl", "--script", "new.toml")
    openssl("crl", "-inform", "DER", "-in", room.folder / "root.crl", "-CAfile", root / "root.pem", "-noout")
    assert "BAD" not in room(
        "check", "-d", "root", "--share", "root/share-1.json", "--share", "root/share-2.json"
    )


def test_what_others_can_read_is_not_used(tmp_path: Path) -> None:
    room = Room(tmp_path / "room")
    (room.folder / "root").chmod(0o755)
    room.passphrases()
    holders = (
        '\n[[holders]]\nname = "A"\npassphrase_file = "p1"\n[[holders]]\nname = "B"\npassphrase_file = "p2"\n'
    )
    script = room.script("root.toml", ROOT.format(algorithm="P-256") + holders)
    assert "chmod 700 it" in room("root", "--script", script, status=1)
    assert not list((room.folder / "root").iterdir())


def test_a_root_is_made_by_people_who_type(tmp_path: Path) -> None:
    """No script: questions, agreement, passphrases typed twice and unseen."""
    folder = tmp_path / "room"
    (folder / "root").mkdir(mode=0o700, parents=True)
    answers = [
        *("Grace Hopper", "auditor", "", "CN=Typed Root", "P-256", "", "", "", "", "", ""),
        *("2", "2", "Ada", "", "Bob", ""),
        "yes",  # the clock (and the machine, where it has a network)
        "yes",
        *("the passphrase of Ada", "the passphrase of Ada", "the passphrase of Bob", "the passphrase of Bob"),
    ]
    offline = ["unshare", "--net"] if os.geteuid() == 0 else []
    if not offline:
        answers.insert(answers.index("yes"), "yes")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        command = [*offline, str(COMMAND), "ceremony", "root", "-d", "root"]
        os.execvp(command[0], command)
    shown = b""
    try:
        for answer in answers:
            end = time.monotonic() + 30
            while not re.search(rb"(: |yes\. )\Z", shown) and time.monotonic() < end:
                shown += os.read(terminal, 4096)
            shown += b"\n"
            os.write(terminal, answer.encode() + b"\n")
            time.sleep(0.05)
        while piece := os.read(terminal, 4096):
            shown += piece
    except OSError:
        pass
    finally:
        os.close(terminal)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, shown.decode()
    assert b"passphrase of Ada\r" not in shown, "a passphrase was shown"
    root = json.loads((folder / "root/root.json").read_text())
    assert [holder["name"] for holder in root["sharing"]["holders"]] == ["Ada", "Bob"]
    text = (folder / "root/transcript.txt").read_text()
    assert "rehearsal: no" in text
    assert "passphrase of Ada" not in text


@pytest.mark.parametrize(
    "text",
    [
        "root = 3",
        "threshold = 0",
        'unknown = "x"',
        '[[certify]]\nout = "x"\ndays = 3\n',
        '[[certify]]\nout = "x"\ndays = 3\ncsr = "a"\ncertificate = "b"\n',
        '[[certify]]\nout = "x"\ndays = 0\ncsr = "a"\n',
        '[[certify]]\nout = "x"\ndays = 9\ncertificate = "a"\nsubject = "CN=x"\n',
        '[[revoke]]\nserial = "00"\nreason = "certificateHold"\n',
        "[root\n",
        '[root]\nsubject = "CN=x"\n',
    ],
)
def test_a_script_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(CeremonyError):
        parse(text)
