"""The parts of a profile: rules for keys and names, validity, renewal. ``profiles`` puts them together."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from certloom.pki.identifiers import IdentifierType
from certloom.policy.decisions import ApprovalTerms, LintMode, LintRules, Stage
from certloom.policy.durations import LONGEST

Seconds = Annotated[int, msgspec.Meta(ge=0, le=LONGEST)]
KeyUsage = Literal["auto"] | tuple[str, ...]


class _KeyRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
    key_usage: tuple[str, ...] = ()
    """Key usage of certificates for such keys, where it differs from the profile's."""


class RSAKeys(_KeyRule, frozen=True, kw_only=True, tag="rsa"):
    """RSA keys of ``min`` to ``max`` bits."""

    min: Annotated[int, msgspec.Meta(ge=2048, le=8192)] = 2048
    max: Annotated[int, msgspec.Meta(ge=2048, le=8192)] = 8192


class ECKeys(_KeyRule, frozen=True, kw_only=True, tag="ec"):
    """Elliptic curve keys on these curves."""

    curves: Annotated[tuple[Literal["P-256", "P-384", "P-521"], ...], msgspec.Meta(min_length=1)] = (
        "P-256",
        "P-384",
        "P-521",
    )


class Ed25519Keys(_KeyRule, frozen=True, kw_only=True, tag="ed25519"):
    """Ed25519 keys (RFC 8410)."""


class Ed448Keys(_KeyRule, frozen=True, kw_only=True, tag="ed448"):
    """Ed448 keys (RFC 8410)."""


class MLDSA44Keys(_KeyRule, frozen=True, kw_only=True, tag="ml-dsa-44"):
    """ML-DSA-44 keys (RFC 9881)."""


class MLDSA65Keys(_KeyRule, frozen=True, kw_only=True, tag="ml-dsa-65"):
    """ML-DSA-65 keys (RFC 9881)."""


class MLDSA87Keys(_KeyRule, frozen=True, kw_only=True, tag="ml-dsa-87"):
    """ML-DSA-87 keys (RFC 9881)."""


class MLKEM768Keys(_KeyRule, frozen=True, kw_only=True, tag="ml-kem-768"):
    """ML-KEM-768 keys (RFC 9935), made here: no CSR can prove that its sender holds one."""


class MLKEM1024Keys(_KeyRule, frozen=True, kw_only=True, tag="ml-kem-1024"):
    """ML-KEM-1024 keys (RFC 9935), made here: no CSR can prove that its sender holds one."""


KeyRule = (
    RSAKeys
    | ECKeys
    | Ed25519Keys
    | Ed448Keys
    | MLDSA44Keys
    | MLDSA65Keys
    | MLDSA87Keys
    | MLKEM768Keys
    | MLKEM1024Keys
)


def key_algorithm(rule: KeyRule) -> str:
    """The algorithm that a rule is about, as ``PublicKeyFacts.algorithm`` names it."""
    return str(rule.__struct_config__.tag)


class TypeRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which names of one type may be asked for (patterns: see ``name_rules``)."""

    allow: tuple[str, ...] = ()
    """A name must be covered by one of these; none means any name."""
    deny: tuple[str, ...] = ()
    """A name must not touch any of these, whatever ``allow`` says."""


class URIRules(TypeRules, frozen=True, kw_only=True):
    """Which URIs may be asked for."""

    schemes: tuple[Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9+.-]*$")], ...] = ()
    """A URI's scheme must be one of these; none means any scheme."""


def type_defaults(type: IdentifierType) -> TypeRules:
    """The rules for names of a type that a profile says nothing about."""
    return URIRules() if type is IdentifierType.URI else TypeRules()


class NameRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which names a certificate may have."""

    types: tuple[IdentifierType, ...] = (IdentifierType.DNS,)
    required: bool = True
    """Whether there must be at least one."""
    max: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    wildcards: bool = False
    """Whether DNS wildcard names may be asked for."""
    from_certificate: Annotated[
        tuple[Annotated[str, msgspec.Meta(min_length=5, max_length=512)], ...], msgspec.Meta(max_length=20)
    ] = ()
    """Names that who enrols with a certificate is given, made of what stands in it:
    ``dns:{cert.serialNumber}.devices.example``. ``allow`` and ``deny`` are not asked about them."""
    asked: bool = True
    """Whether other names than those may be asked for."""
    dns: TypeRules = TypeRules()
    ip: TypeRules = TypeRules()
    uri: URIRules = URIRules()
    email: TypeRules = TypeRules()


class Validity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long certificates live, in seconds; the whole of notBefore to notAfter, both inclusive."""

    default: Annotated[int, msgspec.Meta(ge=60, le=LONGEST)]
    """Lifetime when the requester asks for none."""
    max: Annotated[int, msgspec.Meta(ge=60, le=LONGEST)] | None = None
    """Longest lifetime that may be asked for; ``default`` unless set."""
    requester_may_ask: bool = True
    """Whether notBefore and notAfter may be asked for (RFC 8555 section 7.4)."""
    backdate: Seconds = 0
    """How far before the time of issuance notBefore lies, for clients whose clocks are slow."""
    ahead: Seconds = 30 * 86400
    """How far ahead an asked notBefore may lie."""


class RenewalRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The span of a certificate's life over which renewals of a fleet are spread, and what they may change.

    Each end of the span is a share of the lifetime gone by (a number with a point: 0.66) or a time before
    expiry (``"30d"``, or whole seconds).
    """

    start: float | int = 0.66
    end: float | int = 0.8
    new_key: Literal["optional", "required", "forbidden"] = "optional"
    """Whether a certificate that is renewed by its holder (EST, SCEP, CMP) gets a new key."""
    change_names: bool = False
    """Whether its holder may ask for another subject or other names at that (RFC 6402 section 2.8)."""


class ExtraExtension(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An extension that every certificate of the profile carries, beside those Certloom writes itself."""

    oid: Annotated[str, msgspec.Meta(pattern=r"^[0-2](\.(0|[1-9][0-9]*)){1,30}$")]
    critical: bool = False
    value: Annotated[str, msgspec.Meta(min_length=4, max_length=8192)]
    """Hexadecimal DER of the value (inside the OCTET STRING)."""


class Approval(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which people must agree before a certificate is issued."""

    approvers: Annotated[int, msgspec.Meta(ge=0, le=10)] = 0
    """How many who hold the role ``approver``: short for one stage."""
    stages: Annotated[tuple[Stage, ...], msgspec.Meta(max_length=5)] = ()
    """Several rounds, or other roles."""
    wait: Annotated[int, msgspec.Meta(ge=60, le=365 * 86400)] = 7 * 86400
    """Seconds that a request waits for them."""
    good_for: Annotated[int, msgspec.Meta(ge=0, le=365 * 86400)] = 7 * 86400
    """Seconds that their agreement serves the same requester's further requests for the same."""
    may_change: tuple[Literal["validity", "names"], ...] = ()
    """What an approver may change."""
    renewals: bool = True
    """Whether they must also agree where a certificate is renewed for who shows to hold it (EST, SCEP, CMP),
    for the same names."""

    def terms(self) -> ApprovalTerms | None:
        """What has to be agreed, or None where nothing has."""
        stages = self.stages or ((Stage(approvers=self.approvers),) if self.approvers else ())
        return ApprovalTerms(stages, self.wait, self.good_for, self.may_change) if stages else None


class ServerKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whether keys may be made here, for requesters that cannot make their own."""

    algorithms: tuple[
        Literal[
            "rsa-2048",
            "rsa-3072",
            "rsa-4096",
            "P-256",
            "P-384",
            "P-521",
            "ed25519",
            "ed448",
            "ml-dsa-44",
            "ml-dsa-65",
            "ml-dsa-87",
            "ml-kem-768",
            "ml-kem-1024",
        ],
        ...,
    ] = ()
    """Those that may be; none means that no key is made here."""
    keep: Annotated[int, msgspec.Meta(ge=60, le=30 * 86400)] = 86400
    """Seconds from issuance for which such a key can be fetched; then it is wiped."""


class Lint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whether certificates are linted before they are signed."""

    mode: LintMode = LintMode.FIRST_OF_SHAPE
    level: Literal["notice", "warning", "error", "fatal"] = "warning"
    """Findings at or above this severity stop issuance."""
    rules: LintRules = LintRules.PKIX
    """What they are linted by. By the CA/Browser Forum's rules every one is, unless the mode is ``off``."""


class CT(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Certificate Transparency (RFC 6962): certificates are logged before they are issued."""

    logs: Annotated[
        tuple[Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9-]{0,62}$")], ...],
        msgspec.Meta(min_length=1, max_length=20),
    ]
    """Names of logs, as the settings have them under ``[ct.logs]``."""
    needed: Annotated[int, msgspec.Meta(ge=1, le=20)] = 2
    """How many of them must promise to log it."""
