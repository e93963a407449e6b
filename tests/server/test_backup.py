"""Backup and restore: what was promised is there again, and what nobody can know is accounted for."""

from __future__ import annotations

import asyncio
import os
import tarfile
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from certloom.audit import Origin
from certloom.clock import ManualClock
from certloom.server.archive import ArchiveError, read_manifest
from certloom.server.restore import Restored, RestoreError, restore
from certloom.server.rooms import Rooms
from certloom.settings import Settings
from certloom.settings.schema import Database
from certloom.store import crls as crl_statements
from certloom.store import recovery
from tests.postgresql import Cluster
from tests.server.conftest import Installation, ask, refused
from tests.server.enrolling import WEB, enrol
from tests.server.listening import run

ORIGIN = Origin("local:tester")


def back_up(installation: Installation, path: Path, clock: ManualClock) -> None:
    """An installation with one certificate and every CRL, backed up."""

    async def main(rooms: Rooms) -> None:
        await ask(rooms, "POST", "/declarations", {"document": {"profiles": [WEB]}})
        await enrol(rooms, "before.corp.example")
        await rooms.crls.refresh()
        result = await ask(rooms, "POST", "/backups", {"path": str(path)})
        assert (result["path"], result["manifest"]["created"]) == (str(path), clock.now())

    installation.within(main, clock)


def put_back(installation: Installation, path: Path, clock: ManualClock, *, force: bool = False) -> Restored:
    restored: Restored = run(restore(installation.settings, clock, path, force=force, origin=ORIGIN))
    return restored


@pytest.fixture
def elsewhere(
    settings: Settings, dialect: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Installation:
    """An empty place of the same kind to restore into."""
    url = ""
    if dialect == "postgresql":
        cluster: Cluster = request.getfixturevalue("postgresql")
        url = cluster.url(cluster.create())
    return Installation(
        msgspec.structs.replace(settings, data_dir=str(tmp_path / "elsewhere"), database=Database(url=url))
    )


def test_keys_and_database_come_back_together_elsewhere(
    either: Installation, elsewhere: Installation, tmp_path: Path, clock: ManualClock
) -> None:
    archive = tmp_path / "backup.tar"
    back_up(either, archive, clock)
    assert archive.stat().st_mode & 0o777 == 0o600
    clock.advance(3600)
    put_back(elsewhere, archive, clock)

    async def main(rooms: Rooms) -> None:
        (known,) = (await ask(rooms, "GET", "/certificates?profile=web"))["items"]
        assert known["names"] == ["dns:before.corp.example"]
        await enrol(rooms, "after.corp.example")  # the sealed CA key opens
        assert (await ask(rooms, "POST", "/audit/verification", {}))["intact"] is True

    elsewhere.within(main, clock)


def test_serials_and_the_time_since_the_backup_are_accounted_for(
    either: Installation, elsewhere: Installation, tmp_path: Path, clock: ManualClock
) -> None:
    archive = tmp_path / "backup.tar"
    back_up(either, archive, clock)
    backed_up = clock.now()

    async def issue_more(rooms: Rooms) -> bytes:
        request = await enrol(rooms, "lost.corp.example")
        shown = await ask(rooms, "GET", f"/certificates/{request.certificate_id}")
        return bytes.fromhex(shown["serial"])

    either.within(issue_more, clock)
    clock.advance(3600)
    restored = put_back(elsewhere, archive, clock)
    assert restored.unknown_serials > 0

    async def main(rooms: Rooms) -> None:
        spans = await rooms.store.read(recovery.lost_spans)
        assert spans == [(backed_up, clock.now())]
        states = await rooms.store.scan(lambda tx: tx.all("SELECT DISTINCT state FROM serials"))
        assert states == [("unknown",)]
        kinds = await rooms.store.scan(
            lambda tx: tx.all("SELECT actor FROM events WHERE kind = 'store.restored'")
        )
        assert kinds == [("local:tester",)]

    elsewhere.within(main, clock)


def crl_number(der: bytes) -> int:
    return x509.load_der_x509_crl(der).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def test_crl_numbers_keep_rising(
    either: Installation, elsewhere: Installation, tmp_path: Path, clock: ManualClock
) -> None:
    archive = tmp_path / "backup.tar"
    back_up(either, archive, clock)
    clock.advance(4 * 86_400)

    async def numbers(rooms: Rooms) -> dict[int, int]:
        await rooms.crls.refresh()
        crls = await rooms.store.scan(
            lambda tx: [crl_statements.get(tx, "issuing", 1, shard) for shard in range(16)]
        )
        return {crl.shard: crl_number(crl.der) for crl in crls if crl is not None}

    seen_by_the_world = either.within(numbers, clock)
    clock.advance(60)
    put_back(elsewhere, archive, clock)
    after = elsewhere.within(numbers, clock)
    assert len(after) == 16
    assert all(after[shard] > seen_by_the_world[shard] for shard in range(16))


def test_a_backup_of_a_busy_installation_is_whole(
    either: Installation, elsewhere: Installation, tmp_path: Path, clock: ManualClock
) -> None:
    archive = tmp_path / "backup.tar"

    async def main(rooms: Rooms) -> None:
        await ask(rooms, "POST", "/declarations", {"document": {"profiles": [WEB]}})
        issuing = [enrol(rooms, f"n{i}.corp.example") for i in range(40)]
        await asyncio.gather(ask(rooms, "POST", "/backups", {"path": str(archive)}), *issuing)

    either.within(main, clock)
    put_back(elsewhere, archive, clock)

    async def check(rooms: Rooms) -> None:
        assert (await ask(rooms, "POST", "/audit/verification", {}))["intact"] is True
        orphans = await rooms.store.scan(
            lambda tx: tx.all(
                "SELECT c.id FROM certificates c LEFT JOIN enrolment_requests r ON r.id = c.request_id"
                " WHERE r.id IS NULL AND c.profile NOT IN ('ca', 'ocsp')"
            )
        )
        assert orphans == []

    elsewhere.within(check, clock)


def test_restore_refuses_what_is_in_use_or_not_empty(
    installation: Installation, tmp_path: Path, clock: ManualClock
) -> None:
    archive = tmp_path / "backup.tar"
    back_up(installation, archive, clock)
    with pytest.raises(RestoreError, match=r"certloom\.db and .*data\.key exist; --force"):
        put_back(installation, archive, clock)

    async def while_open(rooms: Rooms) -> None:
        with pytest.raises(RestoreError, match=f"in use by process {os.getpid()}"):
            await restore(installation.settings, clock, archive, force=True, origin=ORIGIN)

    installation.within(while_open, clock)
    before = Path(installation.settings.data_dir, "data.key").read_bytes()
    restored = put_back(installation, archive, clock, force=True)
    assert len(restored.kept_aside) == 2
    assert all(Path(path).exists() for path in restored.kept_aside)
    assert Path(installation.settings.data_dir, "data.key").read_bytes() == before


def test_restore_into_a_used_postgresql_database_needs_force(
    settings: Settings, postgresql_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    installation = Installation(msgspec.structs.replace(settings, database=Database(url=postgresql_url)))
    archive = tmp_path / "backup.tar"
    back_up(installation, archive, clock)
    with pytest.raises(RestoreError, match="not empty; --force"):
        put_back(installation, archive, clock)

    async def while_open(rooms: Rooms) -> None:
        await enrol(rooms, "later.corp.example")
        with pytest.raises(RestoreError, match="other sessions use the database"):
            await restore(installation.settings, clock, archive, force=True, origin=ORIGIN)

    installation.within(while_open, clock)
    put_back(installation, archive, clock, force=True)
    names = [c["names"] for c in installation.ask("GET", "/certificates?profile=web")["items"]]
    assert names == [["dns:before.corp.example"]]


def damaged(archive: Path, member: str, target: Path) -> Path:
    """The same archive with one bit of a member turned."""
    with tarfile.open(archive) as source, tarfile.open(target, "w") as copy:
        for entry in source:
            file = source.extractfile(entry)
            assert file is not None
            data = bytearray(file.read())
            if entry.name == member:
                data[len(data) // 2] ^= 1
            import io

            copy.addfile(entry, io.BytesIO(data))
    return target


def test_a_damaged_or_foreign_archive_changes_nothing(
    installation: Installation, settings: Settings, tmp_path: Path, clock: ManualClock
) -> None:
    archive = tmp_path / "backup.tar"
    back_up(installation, archive, clock)
    target = Installation(msgspec.structs.replace(settings, data_dir=str(tmp_path / "target")))
    cut = tmp_path / "cut.tar"
    cut.write_bytes(archive.read_bytes()[:-60_000])
    text = tmp_path / "text.tar"
    text.write_text("not a tar file")
    for bad, problem in (
        (damaged(archive, "data.key", tmp_path / "a.tar"), "data.key is damaged"),
        (damaged(archive, "database.sqlite", tmp_path / "b.tar"), "database.sqlite is damaged"),
        (cut, "damaged|lacks"),
        (text, "no archive"),
        (tmp_path / "none.tar", "cannot read .*: No such file"),
    ):
        with pytest.raises(RestoreError, match=problem):
            put_back(target, bad, clock)
    assert [p.name for p in Path(target.settings.data_dir).glob("*")] == ["server.lock"]


def test_the_manifest_tells_what_the_archive_is(
    installation: Installation, tmp_path: Path, clock: ManualClock
) -> None:
    archive = tmp_path / "backup.tar"
    back_up(installation, archive, clock)
    manifest = read_manifest(archive)
    assert (manifest.format, manifest.dialect, manifest.created) == (1, "sqlite", clock.now())
    with pytest.raises(ArchiveError):
        read_manifest(tmp_path)


def test_an_existing_file_is_never_overwritten(installation: Installation, tmp_path: Path) -> None:
    (tmp_path / "there.tar").write_text("mine")

    async def main(rooms: Rooms) -> None:
        for path, why in (("there.tar", "exists already"), ("none/there.tar", "no directory")):
            code, detail = await refused(rooms, "POST", "/backups", {"path": str(tmp_path / path)})
            assert code == "conflict"
            assert why in detail
        assert (await refused(rooms, "POST", "/backups", {"path": "relative.tar"}))[0] == "invalid"

    installation.within(main)
    assert (tmp_path / "there.tar").read_text() == "mine"
    assert not list(Path(installation.settings.data_dir).glob(".backup*"))


def test_no_server_starts_on_half_a_restore_and_the_restore_can_be_run_again(
    installation: Installation,
    settings: Settings,
    tmp_path: Path,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from certloom.server import restore as module
    from certloom.server.data_dir import DataDirError

    archive = tmp_path / "backup.tar"
    back_up(installation, archive, clock)
    target = Installation(msgspec.structs.replace(settings, data_dir=str(tmp_path / "target")))

    class Killed(Exception):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, "_move", die)
        with pytest.raises(Killed):
            put_back(target, archive, clock)
    with pytest.raises(DataDirError, match="not completed"):
        target.ask("GET", "/profiles")
    put_back(target, archive, clock)
    assert len(target.ask("GET", "/certificates?profile=web")["items"]) == 1
