"""Settings of PKCS#11 modules."""

from __future__ import annotations

from typing import Annotated

import msgspec


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A token that keys may be in, and the module that speaks to it."""

    module: str
    """Path of the vendor's PKCS#11 library."""
    token: str = ""
    """The token's label; empty: the section's name."""
    serial: str = ""
    """The token's serial number, where several have the label."""
    pin_file: str = ""
    """File with the user's PIN."""
    pin_credential: str = ""
    """Name of a systemd credential with the PIN, instead."""
    pin_variable: str = ""
    """Environment variable with the PIN, instead."""
    seconds: Annotated[int, msgspec.Meta(ge=1, le=600)] = 20
    """How long one operation may take."""
