"""PostgreSQL's own dump and restore programs, without a password on any command line."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

from psycopg import conninfo


class ToolError(Exception):
    """The program is missing or failed; the message says what it said."""


async def dump(url: str, target: Path) -> None:
    """``pg_dump`` of the database, as of one moment, into ``target``. Raises ``ToolError``."""
    await _run(url, "pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={target}")


async def restore(url: str, source: Path) -> None:
    """``pg_restore`` in one transaction, replacing what is there. Raises ``ToolError``."""
    await _run(
        url,
        "pg_restore",
        "--clean",
        "--if-exists",
        "--no-owner",
        "--no-privileges",
        "--single-transaction",
        "--exit-on-error",
        "--dbname=",
        str(source),
    )


async def _run(url: str, program: str, *arguments: str) -> None:
    found = shutil.which(program)
    if found is None:
        raise ToolError(f"{program} is not on the PATH (on Debian it is in the package postgresql-client)")
    # libpq reads what it would be told by URL from a service file; only its name stands in the environment.
    lines = "".join(f"{k}={v}\n" for k, v in conninfo.conninfo_to_dict(url).items() if v is not None)
    with tempfile.NamedTemporaryFile("w", prefix="certloom-pg-", suffix=".conf") as service:
        service.write(f"[certloom]\n{lines}")
        service.flush()
        environment = {**os.environ, "PGSERVICEFILE": service.name, "PGSERVICE": "certloom"}
        arguments = tuple("--dbname=service=certloom" if a == "--dbname=" else a for a in arguments)
        process = await asyncio.create_subprocess_exec(
            found,
            *arguments,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, errors = await process.communicate()
        except BaseException:
            if process.returncode is None:
                process.kill()
            raise
    if process.returncode != 0:
        raise ToolError(f"{program} failed: {errors.decode(errors='replace').strip()[-2000:]}")
