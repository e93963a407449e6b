"""``certloom key source``, ``protect`` and ``export``: the keys that encrypt keys, and where they come from.

These work on the files of this machine, as the user who may read them, and never through a server.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from certloom.cli import show
from certloom.cli.certificates import key
from certloom.cli.files import save
from certloom.cli.options import REFUSED, USAGE, AsJSON, Config
from certloom.cli.reach import fail, read_settings

if TYPE_CHECKING:
    from certloom.server.data_dir import DataDir
    from certloom.settings.key_sources import Secrets

OfSigner = Annotated[bool, typer.Option("--signer", help="The signer's key, not the server's data key.")]


@key.command("source")
def show_source(signer: OfSigner = False, config: Config = None, json: AsJSON = False) -> None:
    """Say which source a key file needs, and which one the settings name."""
    _, secrets, path = _found(config, signer)

    from certloom.secrets import SecretError
    from certloom.secrets.sources import source_named_in

    try:
        source = source_named_in(path)
    except SecretError as error:
        fail(REFUSED, str(error))
    found = {"file": str(path), "source": source, "settings": secrets.source}
    if json:
        show.as_json(found)
    else:
        show.record(found)


@key.command("protect")
def protect_key(
    to: Annotated[
        str,
        typer.Option(
            "--with", metavar="SOURCE", help="file, passphrase, env, vault, aws-kms or command; its section"
        ),
    ],
    signer: OfSigner = False,
    config: Config = None,
    json: AsJSON = False,
) -> None:
    """Have a key come from another source. The key stays the same; stop the server first.

    The new source is tried out before anything is replaced. Afterwards, set `source` in the settings.
    """
    data_dir, secrets, path = _found(config, signer)

    import msgspec

    from certloom.secrets import SecretError, memory
    from certloom.secrets.protect import protect
    from certloom.server.data_dir import DataDirError
    from certloom.settings.key_sources import SOURCES

    if to not in SOURCES:
        fail(USAGE, f"there is no source {to!r}: {', '.join(SOURCES)}")
    memory.refuse_dumps()
    try:
        data_dir.lock()
        done = protect(secrets, path, to)
    except (SecretError, DataDirError) as error:
        fail(REFUSED, str(error))
    finally:
        data_dir.unlock()
    if json:
        show.as_json(msgspec.to_builtins(done))
        return
    section = "signer.secrets" if signer else "secrets"
    show.line(f"{done.path}: the key {done.id} now needs source {done.source!r} ({done.was!r} before).")
    if secrets.source != done.source:
        show.line(f'Set source = "{done.source}" in [{section}] before the next start.')
    if done.was == "file":
        show.line("Backups made before, and what the disk keeps of the old file, still hold the key itself.")


@key.command("export")
def export_key(
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, its owner's alone.")],
    signer: OfSigner = False,
    config: Config = None,
) -> None:
    """Write out a key itself, for a source that keeps keys. Whoever reads it can read what is sealed."""
    _, secrets, path = _found(config, signer)

    from certloom.secrets import SecretError, memory
    from certloom.secrets.protect import export

    memory.refuse_dumps()
    if out.exists() or str(out) == "-":
        fail(USAGE, f"{out}: name a file that does not exist yet")
    try:
        text = export(secrets, path)
    except SecretError as error:
        fail(REFUSED, str(error))
    save(out, [text], private=True)
    show.line(f"{out}: the key itself. Remove it as soon as it is where it is to be kept.")


def _found(config: Path | None, signer: bool) -> tuple[DataDir, Secrets, Path]:
    settings = read_settings(config)

    from certloom.server import signer as signers
    from certloom.server.data_dir import DataDir

    data_dir = DataDir(settings)
    if signer:
        path = signers.directory(settings, data_dir) / data_dir.signer_key.name
        return data_dir, settings.signer.secrets, path
    return data_dir, settings.secrets, data_dir.data_key
