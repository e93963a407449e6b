"""What the signer does not do although a server asks: its limits file.

It is the signer's own, and only a local command (or an editor, by its owner) changes it: a server that was
taken over asks in vain for a CA certificate. TOML, read again when it changes::

    [default]
    ca_certificates = "never"        # "always": CA certificates below an authority's own are signed
    longest_days = 400               # of an end entity's certificate
    certificates_per_minute = 600    # 0: any number

    [authority.issuing]              # what differs for one authority
    names = ["example.com", "10.0.0.0/8"]
    usages = ["serverAuth", "clientAuth"]

    [authority.root]
    ca_certificates_until = 2026-11-24T12:00:00Z     # a permit, as `certloom signer permit` writes it
"""

from __future__ import annotations

import ipaddress
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from certloom.clock import Clock
from certloom.pki.identifiers import Identifier, IdentifierType
from certloom.pki.template import CATemplate, CertificateTemplate
from certloom.policy.usages import EXTENDED_KEY_USAGES
from certloom.signing.base import Purpose, SigningRefused, SigningUnavailable
from certloom.signing.records import KeyRecord

_DAY = 86_400
_LOOK_AGAIN = 1
"""Seconds for which the file is not looked at again."""
_MOST_OCTETS = 1 << 20
_YOUNG = 600
"""Seconds for which a key that was made here may sign CA certificates without a permit."""
_OCSP_SIGNING = "1.3.6.1.5.5.7.3.9"


class LimitsError(Exception):
    """The limits file cannot be used."""


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """For one authority; what it does not set is as in ``default``."""

    ca_certificates: Literal["never", "always"] | None = None
    """Whether CA certificates are signed with its key once that is ten minutes old. Self-signed ones
    always are: nobody trusts a new root."""
    ca_certificates_until: datetime | None = None
    """A permit: until then they are."""
    longest_days: Annotated[int, msgspec.Meta(ge=1)] | None = None
    names: tuple[str, ...] | None = None
    """Domains (with everything under them) and address ranges that certificates may name; ``*``: any."""
    usages: tuple[str, ...] | None = None
    """Extended key usages, by name or OID; ``*``: any."""
    certificates_per_minute: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """0: any number."""


class LimitsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    default: Limit = Limit()
    authority: dict[str, Limit] = {}


_STRICT = Limit(
    ca_certificates="never", longest_days=3653, names=("*",), usages=("*",), certificates_per_minute=0
)
"""Where the file says nothing."""


def parse(text: str) -> LimitsFile:
    """Raises ``LimitsError``."""
    try:
        found = msgspec.convert(tomllib.loads(text), LimitsFile)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise LimitsError(str(error)) from None
    for limit in (found.default, *found.authority.values()):
        for name in limit.names or ():
            _range(name)
        if limit.ca_certificates_until is not None and limit.ca_certificates_until.tzinfo is None:
            raise LimitsError("ca_certificates_until needs a time zone, such as a Z at its end")
    return found


def render(limits: LimitsFile) -> str:
    """The file's text."""
    lines = ["# What this signer does not do although a server asks. Changed by `certloom signer`."]
    tables = [("default", limits.default), *((f"authority.{k}", v) for k, v in limits.authority.items())]
    for name, limit in tables:
        set_ = {k: v for k, v in msgspec.structs.asdict(limit).items() if v is not None}
        if set_ or name == "default":
            lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in set_.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return msgspec.json.encode(value).decode()


class FileLimits:
    """The limits of a file, as ``service.Limits``. A file that cannot be read stops all signing."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Raises ``LimitsError``."""
        self._path = path
        self._clock = clock
        self._seen: tuple[int, int, int] | None = None
        self._looked = 0
        self._limits = LimitsFile()
        self._merged: dict[str, Limit] = {}
        self._trouble = ""
        self._rates: dict[str, _Rate] = {}
        self.ocsp_keys: set[tuple[str, bytes]] = set()
        """(authority, SPKI) of the OCSP keys that are nowhere else: only they are certified as responders."""
        self._look()
        if self._trouble:
            raise LimitsError(self._trouble)

    def attach(self, purpose: Purpose, authority: str) -> None:
        # The key may be another authority's, with narrower limits.
        if not self._ca_allowed(authority):
            raise SigningRefused(
                "signer-limit",
                "the signer does not use a key that is there already;"
                f" `certloom signer permit {authority}` on its machine allows it for a while",
            )

    def certificate(self, record: KeyRecord, template: CertificateTemplate) -> None:
        limit = self._for(record.authority)
        lifetime = template.not_after - template.not_before + 1
        if limit.longest_days and lifetime > limit.longest_days * _DAY:
            raise _refused(record, f"certificates of more than {limit.longest_days} days")
        names = limit.names or ()
        if "*" not in names:
            for identifier in template.identifiers:
                if not any(_covers(name, identifier) for name in names):
                    raise _refused(record, f"certificates for {identifier.value}")
        usages = limit.usages or ()
        if "*" not in usages:
            allowed = {EXTENDED_KEY_USAGES.get(usage, usage) for usage in usages}
            for usage in template.extended_key_usage:
                if usage not in allowed and usage != _OCSP_SIGNING:
                    raise _refused(record, f"certificates with the extended key usage {usage}")
        if (
            _OCSP_SIGNING in template.extended_key_usage
            and (record.authority, template.spki) not in self.ocsp_keys
        ):
            raise _refused(record, "OCSP responders with a key that is not here")
        if limit.certificates_per_minute:
            rate = self._rates.setdefault(record.authority, _Rate())
            if not rate.take(limit.certificates_per_minute, self._clock.now_ms()):
                raise SigningUnavailable(
                    "signer-rate",
                    f"the signer signs {limit.certificates_per_minute} certificates a minute"
                    f" for {record.authority}, and no more",
                )

    def ca_certificate(self, record: KeyRecord, issuer: bytes | None, template: CATemplate) -> None:
        if issuer is None:
            return
        # A key that was made moments ago has certified nothing yet that anybody trusts: a new hierarchy is
        # made in one go.
        young = record.born and 0 <= self._clock.now() - record.created < _YOUNG
        if young or self._ca_allowed(record.authority):
            return
        raise _refused(
            record,
            f"CA certificates; `certloom signer permit {record.authority}` on its machine allows them for"
            " a while",
        )

    def _ca_allowed(self, authority: str) -> bool:
        limit = self._for(authority)
        until = limit.ca_certificates_until
        return limit.ca_certificates == "always" or (
            until is not None and self._clock.now() < until.timestamp()
        )

    def _for(self, authority: str) -> Limit:
        self._look()
        if self._trouble:
            raise SigningUnavailable("signer-limits", self._trouble)
        found = self._merged.get(authority)
        if found is None:
            layers = (self._limits.authority.get(authority, Limit()), self._limits.default, _STRICT)
            values = [msgspec.structs.asdict(layer) for layer in layers]
            found = self._merged[authority] = Limit(
                **{key: next((v[key] for v in values if v[key] is not None), None) for key in values[0]}
            )
        return found

    def _look(self) -> None:
        now = self._clock.now()
        if now - self._looked < _LOOK_AGAIN and self._seen is not None:
            return
        self._looked = now
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen == self._seen:
                return
            if status.st_size > _MOST_OCTETS:
                raise LimitsError("it is too large")
            self._limits = parse(self._path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, LimitsError) as error:
            self._trouble = f"the limits file {self._path} cannot be used: {error}"
            return
        self._seen, self._trouble = seen, ""
        self._merged.clear()


class _Rate:
    """A bucket that holds a minute's worth and fills evenly."""

    __slots__ = ("_at_ms", "_left")

    def __init__(self) -> None:
        self._left: float | None = None
        self._at_ms = 0

    def take(self, per_minute: int, now_ms: int) -> bool:
        left = per_minute if self._left is None else self._left
        left = min(per_minute, left + max(0, now_ms - self._at_ms) * per_minute / 60_000)
        self._at_ms = now_ms
        self._left = left - 1 if left >= 1 else left
        return left >= 1


def _refused(record: KeyRecord, what: str) -> SigningRefused:
    return SigningRefused("signer-limit", f"the signer's limits for {record.authority} do not allow {what}")


def _range(name: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The address range that a limit names, or None for a domain or ``*``. Raises ``LimitsError``."""
    if "/" not in name:
        if not name or name != name.lower() or name.startswith(".") or (("*" in name) and name != "*"):
            raise LimitsError(f"{name!r} is no domain (example.com), address range (10.0.0.0/8) or *")
        return None
    try:
        return ipaddress.ip_network(name)
    except ValueError as error:
        raise LimitsError(str(error)) from None


def _covers(name: str, identifier: Identifier) -> bool:
    network = _range(name)
    value = identifier.value
    if identifier.type is IdentifierType.IP:
        return network is not None and ipaddress.ip_address(value) in network
    if network is not None:
        return False
    match identifier.type:
        case IdentifierType.DNS:
            host = value.removeprefix("*.")
        case IdentifierType.EMAIL:
            host = value.rpartition("@")[2].lower()
        case _:
            host = value.partition("://")[2].partition("/")[0].rpartition("@")[2].partition(":")[0].lower()
    return host == name or host.endswith("." + name)
