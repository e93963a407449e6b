"""The decision: a profile and the facts of one ask in, ``Decision`` out. No I/O, no clock, no state.

Every reason to refuse is collected, so that who asks can put everything right at once. The codes:

============================ ======================================================================
code                         meaning
============================ ======================================================================
key-type-not-allowed         the profile has no rule for this key, or the key does not satisfy it
key-blocked                  the key is on the blocklist
no-names                     the profile wants a name, or the certificate would say nothing at all
too-many-names               more names than the profile takes; none of them was looked at
identifier-type-not-allowed  the profile takes no names of this type
wildcard-not-allowed         a wildcard name, where the profile takes none
name-not-allowed             a name that the profile's rules do not allow, or deny
subject-not-allowed          the CSR's subject does not fill the profile's template
validity-not-allowed         notBefore or notAfter asked for, where the requester has no say
validity-in-past             it would have ended, or begun earlier than the profile backdates
validity-too-far-ahead       it would begin later than the profile allows
validity-too-long            it would last longer than the profile, or the authority, allows
validity-empty               it would end before it begins
authority-expired            the authority's own certificate ends too soon to issue under it
============================ ======================================================================

With outcome ASK the reasons are ``approval-needed`` (the profile asks people) and ``rule-asks``. A policy
rule's reasons name it: ``rule-refuses``, ``rule-asks``, and among the warnings ``rule-warns``. A refusal by
the profile or any rule beats every other word, and a question beats consent.

What is asked of notBefore and notAfter is granted exactly or refused, never changed (RFC 8555 section 7.4).
What is not asked is the profile's to choose: it is then fitted to the profile's longest validity and to the
end of the authority's certificate, and never backdated by more than a quarter of the whole, so that a fresh
certificate is never past its renewal window.
"""

from __future__ import annotations

from functools import lru_cache

from certloom.pki.extensions import Extension
from certloom.pki.identifiers import Identifier, IdentifierError, IdentifierType
from certloom.pki.keys import PublicKeyFacts
from certloom.pki.names import Name
from certloom.policy.decisions import (
    ApprovalTerms,
    CertificateContents,
    CTTerms,
    Decision,
    Facts,
    Outcome,
    Reason,
    ShownCertificate,
)
from certloom.policy.name_rules import Patterns, compile_patterns
from certloom.policy.profile_parts import (
    ECKeys,
    KeyRule,
    RSAKeys,
    TypeRules,
    URIRules,
    Validity,
    key_algorithm,
)
from certloom.policy.profiles import Profile
from certloom.policy.rule_facts import Moment
from certloom.policy.rules import NO_RULES, NOTHING_SAID, Ruleset, merged_terms
from certloom.policy.subjects import NameTemplate, Template
from certloom.policy.usages import automatic_key_usage, in_bit_order, purpose_oid, serves_tls

_SHORTEST = 60
"""Seconds of life, from now, below which no certificate is worth issuing."""


class _TypeCheck:
    """The compiled rules for names of one type."""

    __slots__ = ("allow", "deny", "free", "schemes")

    def __init__(self, type: IdentifierType, rules: TypeRules) -> None:
        self.allow: Patterns | None = compile_patterns(type, rules.allow) if rules.allow else None
        self.deny: Patterns | None = compile_patterns(type, rules.deny) if rules.deny else None
        self.schemes = frozenset(rules.schemes) if isinstance(rules, URIRules) else frozenset()
        self.free = self.allow is None and self.deny is None and not self.schemes

    def accepts(self, value: str) -> bool:
        if self.schemes and value.partition(":")[0] not in self.schemes:
            return False
        if self.deny is not None and self.deny.touch(value):
            return False
        return self.allow is None or self.allow.cover(value)


class _KeyCheck:
    """The compiled rule for keys of one algorithm."""

    __slots__ = ("curves", "key_usage", "longest", "shortest")

    def __init__(self, rule: KeyRule, profile: Profile, purposes: tuple[str, ...]) -> None:
        self.shortest, self.longest = (rule.min, rule.max) if isinstance(rule, RSAKeys) else (0, 0)
        self.curves = frozenset(rule.curves) if isinstance(rule, ECKeys) else None
        if rule.key_usage:
            usage = rule.key_usage
        elif profile.key_usage == "auto":
            usage = automatic_key_usage(key_algorithm(rule), purposes)
        else:
            usage = profile.key_usage
        self.key_usage = in_bit_order(usage)

    def unfit(self, key: PublicKeyFacts) -> str | None:
        if self.curves is not None and key.curve not in self.curves:
            return f"the curve {key.curve} is not allowed, only {', '.join(sorted(self.curves))}"
        if self.longest and not self.shortest <= key.bits <= self.longest:
            return f"RSA keys of {self.shortest} to {self.longest} bits are allowed, this one has {key.bits}"
        return None


class _Compiled:
    """What every decision by one profile has in common, worked out once."""

    __slots__ = (
        "ct",
        "extensions",
        "keys",
        "longest",
        "names_asked",
        "names_made",
        "names_max",
        "names_required",
        "purposes",
        "template",
        "types",
        "wildcards",
    )

    def __init__(self, profile: Profile) -> None:
        self.purposes = tuple(purpose_oid(purpose) for purpose in profile.extended_key_usage)
        self.keys = {key_algorithm(rule): _KeyCheck(rule, profile, self.purposes) for rule in profile.keys}
        names = profile.names
        self.types = {type: _TypeCheck(type, getattr(names, type.value)) for type in names.types}
        self.wildcards = names.wildcards
        self.names_max = names.max
        self.names_required = names.required
        self.names_made = tuple(map(NameTemplate, names.from_certificate))
        self.names_asked = names.asked
        self.template = Template(profile.subject, common_name_is_name=serves_tls(self.purposes))
        self.extensions = tuple(
            Extension(extension.oid, extension.critical, bytes.fromhex(extension.value))
            for extension in profile.extensions
        )
        self.longest = profile.validity.max or profile.validity.default
        self.ct = None if profile.ct is None else CTTerms(profile.ct.logs, profile.ct.needed)


# A profile hashes once (it caches its hash) and is then found by identity.
@lru_cache(maxsize=1024)
def _compiled(profile: Profile) -> _Compiled:
    return _Compiled(profile)


def decide(profile: Profile, version: int, facts: Facts, rules: Ruleset = NO_RULES) -> Decision:
    """What this profile, in this version, and these rules say to this ask."""
    compiled = _compiled(profile)
    reasons: list[Reason] = []
    key = facts.key
    check = _check_key(compiled, key, reasons)
    if facts.key_is_blocked:
        reasons.append(Reason("key-blocked", "the key is on the blocklist"))

    asked = facts.identifiers
    made = _made(compiled, facts.certificate, reasons) if compiled.names_made else ()
    if made:
        asked = tuple([identifier for identifier in asked if identifier not in made])
    identifiers = made + asked
    if len(identifiers) > 1:
        identifiers = tuple(dict.fromkeys(identifiers))
    if len(identifiers) > compiled.names_max:
        reasons.append(_too_many(identifiers, compiled))
        return Decision(Outcome.REFUSE, tuple(reasons))
    _check_names(compiled, asked, reasons)

    subject = compiled.template.render(
        identifiers,
        facts.csr_subject,
        lambda complaint: reasons.append(Reason("subject-not-allowed", complaint)),
        facts.certificate,
    )
    if not identifiers and (compiled.names_required or not (subject.attributes or reasons)):
        reasons.append(Reason("no-names", "the certificate needs at least one name"))

    not_before, not_after = _validity(profile.validity, compiled.longest, facts, reasons)

    said = NOTHING_SAID
    if rules:
        granted = (0, 0) if any(r.code.startswith("validity-") for r in reasons) else (not_before, not_after)
        said = rules.judge(Moment(facts, profile, version, identifiers, *granted))
        reasons.extend(said.refusals)
    if reasons:
        return Decision(Outcome.REFUSE, tuple(reasons), warnings=said.warnings, verdicts=said.verdicts)
    assert check is not None
    lint = profile.lint
    contents = CertificateContents(
        spki=key.spki,
        subject=subject,
        identifiers=identifiers,
        not_before=not_before,
        not_after=not_after,
        key_usage=check.key_usage,
        extended_key_usage=compiled.purposes,
        extensions=compiled.extensions,
        authority=profile.authority,
        profile=profile.name,
        profile_version=version,
        lint=lint.mode,
        lint_level=lint.level,
        lint_rules=lint.rules,
        ct=compiled.ct,
    )
    own = profile.approval.terms() if profile.approval.renewals or not facts.renewal else None
    if facts.approved or (own is None and not said.terms):
        return Decision(Outcome.ISSUE, (), contents, warnings=said.warnings, verdicts=said.verdicts)
    terms = own or ApprovalTerms((), 0, 0, profile.approval.may_change)
    questions = said.questions
    if said.terms:
        terms = merged_terms((*((own,) if own else ()), *said.terms), profile.approval.may_change)
    if own is not None:
        questions = (_people_must_agree(own), *questions)
    return Decision(Outcome.ASK, questions, contents, terms, said.warnings, said.verdicts)


def names_to_issue(
    profile: Profile, asked: tuple[Identifier, ...], shown: ShownCertificate | None
) -> tuple[Identifier, ...]:
    """What a certificate would name: what the profile makes of the certificate that was shown, and what is
    asked for, each once. Nothing is said of whether that may be."""
    compiled = _compiled(profile)
    if not compiled.names_made:
        return asked
    return tuple(dict.fromkeys(_made(compiled, shown, []) + asked))


def _made(
    compiled: _Compiled, shown: ShownCertificate | None, reasons: list[Reason]
) -> tuple[Identifier, ...]:
    found: dict[Identifier, None] = {}
    if shown is not None:
        for template in compiled.names_made:
            try:
                name = template.name(shown)
            except IdentifierError as error:
                reasons.append(
                    Reason("name-not-allowed", f"what stands in the certificate makes no name: {error}")
                )
                continue
            if name is not None:
                found[name] = None
    return tuple(found)


def objections(
    profile: Profile, key: PublicKeyFacts, identifiers: tuple[Identifier, ...], subject: Name | None
) -> list[Reason]:
    """What the profile has against a key, names (each once) and, unless it is None, a CSR's subject.

    Nothing is said of times, nor of the blocklist: this is for looking at what there is already. What its
    requester showed then is not known any more: a name that could have been made of it passes.
    """
    compiled = _compiled(profile)
    reasons: list[Reason] = []
    _check_key(compiled, key, reasons)
    if len(identifiers) > compiled.names_max:
        reasons.append(_too_many(identifiers, compiled))
    else:
        made = compiled.names_made
        asked = tuple([i for i in identifiers if not any(template.may_have_made(i) for template in made)])
        _check_names(compiled, asked, reasons)
    if subject is not None:
        compiled.template.render(
            identifiers,
            subject,
            lambda complaint: reasons.append(Reason("subject-not-allowed", complaint)),
        )
    if not identifiers and compiled.names_required:
        reasons.append(Reason("no-names", "the certificate needs at least one name"))
    return reasons


def key_usage_for(profile: Profile, key: PublicKeyFacts) -> tuple[str, ...]:
    """The key usage of the profile's certificates for such keys; none where it takes no such keys."""
    check = _compiled(profile).keys.get(key.algorithm)
    return () if check is None else check.key_usage


def _check_key(compiled: _Compiled, key: PublicKeyFacts, reasons: list[Reason]) -> _KeyCheck | None:
    check = compiled.keys.get(key.algorithm)
    if check is None:
        allowed = ", ".join(compiled.keys)
        reasons.append(
            Reason("key-type-not-allowed", f"{key.algorithm} keys are not allowed, only {allowed}")
        )
    elif complaint := check.unfit(key):
        reasons.append(Reason("key-type-not-allowed", complaint))
    return check


def _too_many(identifiers: tuple[Identifier, ...], compiled: _Compiled) -> Reason:
    return Reason("too-many-names", f"{len(identifiers)} names, of at most {compiled.names_max} allowed")


def _people_must_agree(terms: ApprovalTerms) -> Reason:
    count = sum(stage.approvers for stage in terms.stages)
    return Reason("approval-needed", f"{'a person' if count == 1 else f'{count} people'} must agree first")


def _check_names(compiled: _Compiled, identifiers: tuple[Identifier, ...], reasons: list[Reason]) -> None:
    types = compiled.types
    for identifier in identifiers:
        check = types.get(identifier.type)
        value = identifier.value
        if not compiled.names_asked:
            reasons.append(
                Reason("name-not-allowed", f"names are not asked for here, but made: {value}", identifier)
            )
            continue
        if check is None:
            reasons.append(
                Reason(
                    "identifier-type-not-allowed",
                    f"names of type {identifier.type.value} are not allowed: {value}",
                    identifier,
                )
            )
            continue
        if not compiled.wildcards and value.startswith("*.") and identifier.type is IdentifierType.DNS:
            reasons.append(
                Reason("wildcard-not-allowed", f"wildcard names are not allowed: {value}", identifier)
            )
        if not check.free and not check.accepts(value):
            reasons.append(
                Reason("name-not-allowed", f"the profile does not allow the name {value}", identifier)
            )


def _validity(validity: Validity, longest: int, facts: Facts, reasons: list[Reason]) -> tuple[int, int]:
    """notBefore and notAfter in Unix seconds; meaningless where a reason was added."""
    now = facts.now
    asked_start, asked_end, authority_end = facts.not_before, facts.not_after, facts.authority_not_after
    if asked_start is None and asked_end is None:
        start = now - validity.backdate
        end = start + validity.default - 1
        if authority_end is not None and end > authority_end:
            end = authority_end
            start = max(start, now - (end - now) // 3)
            if end - now < _SHORTEST:
                reasons.append(Reason("authority-expired", "the authority's certificate ends too soon"))
        return start, end

    if not validity.requester_may_ask:
        reasons.append(
            Reason("validity-not-allowed", "notBefore and notAfter are not the requester's to choose")
        )
        return 0, 0
    if asked_start is None:
        assert asked_end is not None
        end = asked_end
        # A quarter of the whole is a third of what is left.
        start = min(now, max(now - validity.backdate, end + 1 - longest, now - max(0, end - now) // 3))
    else:
        start = asked_start
        end = start + validity.default - 1 if asked_end is None else asked_end
        if asked_end is None and authority_end is not None:
            end = min(end, authority_end)
        # People may take their time to approve; what was asked for is then still granted exactly.
        earliest = now - validity.backdate
        if start < earliest and not facts.approved:
            reasons.append(
                Reason(
                    "validity-in-past",
                    f"notBefore may lie at most {validity.backdate} seconds in the past"
                    if validity.backdate
                    else "notBefore may not lie in the past",
                )
            )
        elif start > now + validity.ahead:
            reasons.append(
                Reason("validity-too-far-ahead", f"notBefore may lie at most {validity.ahead} seconds ahead")
            )
    if end - now < _SHORTEST:
        reasons.append(Reason("validity-in-past", "notAfter lies in the past, or less than a minute ahead"))
    elif end <= start:
        reasons.append(Reason("validity-empty", "notAfter is not after notBefore"))
    elif now - start > (end - start) // 4 and not facts.approved:
        reasons.append(
            Reason("validity-in-past", "more than a quarter of the asked validity would be over at once")
        )
    elif end - start + 1 > longest:
        reasons.append(
            Reason("validity-too-long", f"{end - start + 1} seconds, of at most {longest} allowed")
        )
    if authority_end is not None and end > authority_end:
        reasons.append(Reason("validity-too-long", "the authority's own certificate ends earlier"))
    return start, end
