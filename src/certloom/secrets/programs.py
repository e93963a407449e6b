"""Programs that encrypt or print a key: other KMS, ``systemd-creds``, ``age``, whatever an operator has.

A program is started without a shell. What it writes to standard error goes to ours; what it prints goes
nowhere but here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence

from certloom.secrets.errors import SecretError

MOST = 32_768
"""Octets that it may print."""


def run(program: Sequence[str], given: bytes, seconds: float) -> bytes:
    """What the program prints when it gets ``given`` on standard input. Raises ``SecretError``."""
    name = program[0]
    try:
        # A session of its own, so that whatever it starts ends with it, and so that it cannot read from the
        # terminal what is meant for us.
        child = subprocess.Popen(  # noqa: S603  settings name it, and it is started without a shell
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        raise SecretError(f"{name} cannot be started: {error.strerror}") from None
    with child:
        try:
            printed, _ = child.communicate(given, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise SecretError(f"{name} did not end within {seconds:g} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
    if child.returncode:
        raise SecretError(f"{name} ended with status {child.returncode}")
    if len(printed) > MOST:
        raise SecretError(f"{name} printed more than {MOST} octets")
    return printed
