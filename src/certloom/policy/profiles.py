"""Profiles: what a certificate contains, who may have it, how long it lives and when it is renewed.

A profile is written as a table (TOML in a file that ``certloom apply`` reads) and kept as canonical JSON;
every version of it is kept and never changes. ``parse_profile`` takes either form and refuses what makes no
certificate or not the one that was meant, naming the place: ``$.keys[0].min``.

Durations are written ``90d``, ``12h``, ``1d12h`` or as seconds, and kept as seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from certloom.pki import der
from certloom.pki.identifiers import IdentifierType
from certloom.policy.durations import parse_duration
from certloom.policy.name_rules import PatternError, compile_patterns
from certloom.policy.profile_parts import (
    CT,
    Approval,
    ECKeys,
    ExtraExtension,
    KeyRule,
    KeyUsage,
    Lint,
    NameRules,
    RenewalRule,
    RSAKeys,
    ServerKeys,
    TypeRules,
    Validity,
    key_algorithm,
    type_defaults,
)
from certloom.policy.subjects import NameTemplate, SubjectAttribute, Template, TemplateError
from certloom.policy.usages import automatic_key_usage, check_key_usage, is_kem, purpose_oid, serves_tls


class ProfileError(ValueError):
    """A profile that cannot be. ``path`` says where (``$.keys[0].min``), ``message`` what."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{message} - at `{path}`")
        self.path = path
        self.message = message


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, cache_hash=True):
    """One version of a certificate profile. Make it with ``parse_profile``, which checks it."""

    name: Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9-]{0,62}$")]
    description: Annotated[str, msgspec.Meta(max_length=500)] = ""
    authority: Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9-]{0,62}$")]
    keys: Annotated[tuple[KeyRule, ...], msgspec.Meta(min_length=1)]
    """Keys that may be certified; a key must satisfy the rule of its type."""
    subject: tuple[SubjectAttribute, ...] = ()
    names: NameRules = NameRules()
    key_usage: KeyUsage = "auto"
    """``auto``: digitalSignature, and keyEncipherment for RSA keys of TLS servers."""
    extended_key_usage: tuple[str, ...] = ()
    """Purposes by name or OID; none means the extension is left out."""
    validity: Validity
    renewal: RenewalRule = RenewalRule()
    extensions: tuple[ExtraExtension, ...] = ()
    approval: Approval = Approval()
    lint: Lint = Lint()
    server_keys: ServerKeys = ServerKeys()
    ct: CT | None = None


_encode = msgspec.json.Encoder(order="deterministic").encode

_DURATIONS = {
    "validity": ("default", "max", "backdate", "ahead"),
    "renewal": ("start", "end"),
    "approval": ("wait", "good_for"),
    "server_keys": ("keep",),
}

# Extensions that Certloom writes itself, that only a CA certificate may have, or that only a log or
# precertificate has (RFC 6962): a profile that adds them would contradict the certificate it describes.
_NOT_EXTRA = {
    "2.5.29.14": "subjectKeyIdentifier",
    "2.5.29.15": "keyUsage",
    "2.5.29.17": "subjectAltName",
    "2.5.29.19": "basicConstraints",
    "2.5.29.30": "nameConstraints",
    "2.5.29.31": "cRLDistributionPoints",
    "2.5.29.33": "policyMappings",
    "2.5.29.35": "authorityKeyIdentifier",
    "2.5.29.36": "policyConstraints",
    "2.5.29.37": "extKeyUsage",
    "2.5.29.54": "inhibitAnyPolicy",
    "1.3.6.1.5.5.7.1.1": "authorityInfoAccess",
    "1.3.6.1.4.1.11129.2.4.2": "signedCertificateTimestampList",
    "1.3.6.1.4.1.11129.2.4.3": "the precertificate poison",
}
_DEEPEST = 16


def parse_profile(data: Mapping[str, Any] | str | bytes) -> Profile:
    """A profile from a table or from JSON. Raises ``ProfileError``."""
    if isinstance(data, str | bytes):
        try:
            data = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProfileError("$", f"not JSON: {error}") from None
    if not isinstance(data, Mapping):
        raise ProfileError("$", "a profile is a table")
    try:
        profile = msgspec.convert(_with_seconds(data), Profile)
    except msgspec.ValidationError as error:
        raise _at_its_field(str(error)) from None
    _check(profile)
    return profile


def encode_profile(profile: Profile) -> str:
    """Canonical JSON, with every default spelled out: a later default does not change an old version."""
    return _encode(profile).decode()


_FIELD = re.compile(r"Object (?:contains unknown|missing required) field `(.*)`")


def _at_its_field(error: str) -> ProfileError:
    """What the decoder says, which leaves the path's last part in its message where a field is at fault."""
    message, _, path = error.rpartition(" - at `")
    if not message:
        message, path = error, "$`"
    path = path.rstrip("`")
    if field := _FIELD.fullmatch(message):
        path += f".{field[1]}"
    return ProfileError(path, message)


def _with_seconds(data: Mapping[str, Any]) -> dict[str, Any]:
    """The table with durations as seconds."""
    plain = dict(data)
    for section, keys in _DURATIONS.items():
        table = plain.get(section)
        if not isinstance(table, Mapping):
            continue
        converted = dict(table)
        for key in keys:
            value = converted.get(key)
            if isinstance(value, str):
                try:
                    converted[key] = parse_duration(value)
                except ValueError as error:
                    raise ProfileError(f"$.{section}.{key}", str(error)) from None
        plain[section] = converted
    return plain


def _check(profile: Profile) -> None:
    purposes = _check_purposes(profile)
    _check_keys(profile, purposes)
    _check_server_keys(profile)
    _check_names(profile)
    try:
        Template(profile.subject, common_name_is_name=serves_tls(purposes))
    except TemplateError as error:
        raise ProfileError(f"$.subject{error.field}", str(error)) from None
    if not profile.subject and not profile.names.required:
        raise ProfileError("$.names.required", "without a subject, a certificate needs at least one name")
    _check_validity(profile.validity)
    _check_renewal(profile.renewal, profile.validity.default)
    _check_extensions(profile.extensions)
    _check_logs(profile.ct)


def _check_purposes(profile: Profile) -> tuple[str, ...]:
    purposes: list[str] = []
    for i, purpose in enumerate(profile.extended_key_usage):
        path = f"$.extended_key_usage[{i}]"
        try:
            oid = purpose_oid(purpose)
        except ValueError as error:
            raise ProfileError(path, str(error)) from None
        if oid in purposes:
            raise ProfileError(path, f"{purpose} is here twice")
        purposes.append(oid)
    return tuple(purposes)


def _check_keys(profile: Profile, purposes: tuple[str, ...]) -> None:
    seen = set()
    for i, rule in enumerate(profile.keys):
        algorithm = key_algorithm(rule)
        if algorithm in seen:
            raise ProfileError(f"$.keys[{i}].type", f"there is a rule for {algorithm} already")
        seen.add(algorithm)
        if isinstance(rule, RSAKeys) and rule.min > rule.max:
            raise ProfileError(f"$.keys[{i}].min", "min is more than max")
        if rule.key_usage:
            usage, path = rule.key_usage, f"$.keys[{i}].key_usage"
        elif profile.key_usage != "auto":
            usage, path = profile.key_usage, "$.key_usage"
        elif is_kem(algorithm):
            # Where such a key cannot do what the profile is for.
            usage, path = automatic_key_usage(algorithm, purposes), f"$.keys[{i}].type"
        else:
            continue
        try:
            check_key_usage(usage, algorithm, purposes)
        except ValueError as error:
            raise ProfileError(path, str(error)) from None


def _check_server_keys(profile: Profile) -> None:
    rules = {key_algorithm(rule): rule for rule in profile.keys}
    for i, algorithm in enumerate(profile.server_keys.algorithms):
        family = "rsa" if algorithm.startswith("rsa-") else "ec" if algorithm.startswith("P-") else algorithm
        rule = rules.get(family)
        if (
            rule is None
            or (isinstance(rule, RSAKeys) and not rule.min <= int(algorithm[4:]) <= rule.max)
            or (isinstance(rule, ECKeys) and algorithm not in rule.curves)
        ):
            raise ProfileError(
                f"$.server_keys.algorithms[{i}]", f"the profile's keys do not allow {algorithm}"
            )


def _check_names(profile: Profile) -> None:
    names = profile.names
    if len(set(names.types)) != len(names.types):
        raise ProfileError("$.names.types", "a type is here twice")
    if names.required and not names.types:
        raise ProfileError("$.names.required", "a name is required, but no type of name is allowed")
    if names.wildcards and IdentifierType.DNS not in names.types:
        raise ProfileError("$.names.wildcards", "wildcards are DNS names, which are not allowed here")
    for i, text in enumerate(names.from_certificate):
        path = f"$.names.from_certificate[{i}]"
        try:
            made = NameTemplate(text)
        except TemplateError as error:
            raise ProfileError(path, str(error)) from None
        if made.type not in names.types:
            raise ProfileError(path, f"names of type {made.type.value} are not allowed here")
    for type in IdentifierType:
        rules: TypeRules = getattr(names, type.value)
        if rules == type_defaults(type):
            continue
        if type not in names.types:
            raise ProfileError(f"$.names.{type.value}", f"names of type {type.value} are not allowed here")
        for key in ("allow", "deny"):
            for i, pattern in enumerate(getattr(rules, key)):
                try:
                    compile_patterns(type, (pattern,))
                except PatternError as error:
                    raise ProfileError(f"$.names.{type.value}.{key}[{i}]", str(error)) from None


def _check_validity(validity: Validity) -> None:
    if validity.max is not None and validity.max < validity.default:
        raise ProfileError("$.validity.max", "max is less than default")
    if validity.backdate > validity.default // 4:
        raise ProfileError("$.validity.backdate", "more than a quarter of the lifetime would be over at once")


def _check_renewal(rule: RenewalRule, lifetime: int) -> None:
    shares = []
    for key, point in (("start", rule.start), ("end", rule.end)):
        share = point if isinstance(point, float) else 1 - point / lifetime
        if not 0.25 <= share < 1:
            # A client that renews in the first quarter would hardly do anything else (and see renewal.py).
            raise ProfileError(
                f"$.renewal.{key}", "renewal must lie within the last three quarters of the lifetime"
            )
        shares.append(share)
    if shares[0] >= shares[1]:
        raise ProfileError("$.renewal.end", "end is not after start")


def _check_extensions(extensions: tuple[ExtraExtension, ...]) -> None:
    seen = set()
    for i, extension in enumerate(extensions):
        if name := _NOT_EXTRA.get(extension.oid):
            raise ProfileError(f"$.extensions[{i}].oid", f"{name} is not a profile's to add")
        if extension.oid in seen:
            raise ProfileError(
                f"$.extensions[{i}].oid",
                "an extension may stand in a certificate once (RFC 5280 section 4.2)",
            )
        seen.add(extension.oid)
        try:
            der.oid(extension.oid)
        except der.DERError as error:
            raise ProfileError(f"$.extensions[{i}].oid", str(error)) from None
        try:
            _well_formed(bytes.fromhex(extension.value))
        except ValueError as error:
            raise ProfileError(
                f"$.extensions[{i}].value", f"not the hexadecimal form of DER: {error}"
            ) from None


def _check_logs(ct: CT | None) -> None:
    if ct is None:
        return
    if len(set(ct.logs)) != len(ct.logs):
        raise ProfileError("$.ct.logs", "a log is here twice")
    if ct.needed > len(ct.logs):
        raise ProfileError("$.ct.needed", f"{ct.needed} of {len(ct.logs)} logs cannot be had")


def _well_formed(data: bytes) -> None:
    """One TLV and nothing after it, constructed ones well-formed all the way down. Raises ``ValueError``."""
    outer = der.Reader(data)
    tag, content = outer.any()
    outer.finish()
    pending = [(tag, content, 0)]
    while pending:
        tag, content, depth = pending.pop()
        if not tag & 0x20:
            continue
        if depth == _DEEPEST:
            raise der.DERError("nested too deep")
        reader = der.Reader(content)
        while reader.more():
            inner, value = reader.any()
            pending.append((inner, value, depth + 1))


def default_profiles(authority: str) -> tuple[Profile, ...]:
    """The profiles of a fresh installation, all issued by ``authority``."""
    every_key: list[dict[str, Any]] = [
        {"type": "rsa"},
        {"type": "ec"},
        {"type": "ed25519"},
        {"type": "ed448"},
        {"type": "ml-dsa-44"},
        {"type": "ml-dsa-65"},
        {"type": "ml-dsa-87"},
    ]
    # SCEP encrypts its answer to the key that signed the request (RFC 8894 section 3.1).
    device_keys = [{"type": "rsa", "key_usage": ["digitalSignature", "keyEncipherment"]}, *every_key[1:]]
    return tuple(
        parse_profile({"authority": authority, **profile})
        for profile in (
            {
                "name": "tls-server",
                "description": "TLS servers: DNS names, wildcards and IP addresses, 90 days",
                "keys": every_key,
                "subject": [{"type": "CN", "value": "{first_dns}"}],
                "names": {"types": ["dns", "ip"], "wildcards": True, "max": 100},
                "extended_key_usage": ["serverAuth"],
                "validity": {"default": "90d", "backdate": "1h"},
            },
            {
                "name": "tls-client",
                "description": "TLS clients, people and workloads: DNS names, mailboxes and URIs, 90 days",
                "keys": every_key,
                "subject": [{"type": "CN", "value": "{first_name}"}],
                "names": {"types": ["dns", "email", "uri"], "max": 10},
                "extended_key_usage": ["clientAuth"],
                "validity": {"default": "90d", "backdate": "1h"},
            },
            {
                "name": "device",
                "description": "Devices that prove who they are to others: one year",
                "keys": device_keys,
                "subject": [
                    {"type": "O", "value": "{csr.O}"},
                    {"type": "OU", "value": "{csr.OU}"},
                    {"type": "CN", "value": "{csr.CN}"},
                    {"type": "serialNumber", "value": "{csr.serialNumber}"},
                ],
                "names": {"types": ["dns", "ip", "uri"], "required": False, "max": 20},
                "extended_key_usage": ["clientAuth"],
                "validity": {"default": "365d", "backdate": "1h"},
            },
        )
    )
