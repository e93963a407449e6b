"""Policy rules: conditions above the profiles, each with an effect and a message.

A rule is a condition in CEL (``when``) over one ask, its requester, the profile and the inventory, and what
follows when it is true: ``refuse``, ``ask`` people, or ``warn``. What a condition may look at is in
``expressions.shapes``. A rule whose condition cannot be evaluated counts as matched, with its error told:
what cannot be judged is not let through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec

from certloom.policy.decisions import ApprovalTerms, Reason, Stage, Verdict
from certloom.policy.durations import parse_duration
from certloom.policy.expressions import Condition, EvaluationError, ExpressionError, compile_condition
from certloom.policy.expressions.checking import MOST_STEPS, check
from certloom.policy.expressions.condition import context
from certloom.policy.rule_facts import OF_THE_KEY, Moment, collect

MOST_STEPS_TOGETHER = 5 * MOST_STEPS
"""What all rules that are asked about one request may cost at worst; about a quarter of a second."""
_LONGEST_TIME = 365 * 86400
_DEFAULT_TIME = 7 * 86400
_Name = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9-]{0,62}$")]

Effect = Literal["refuse", "ask", "warn"]


class RuleError(ValueError):
    """A rule that cannot be. ``path`` says where (``$.when``), ``message`` what."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{message} - at `{path}`")
        self.path = path
        self.message = message


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One version of a policy rule. Make it with ``parse_rule``, which checks it."""

    name: _Name
    description: Annotated[str, msgspec.Meta(max_length=500)] = ""
    when: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    """The condition, in CEL."""
    effect: Effect
    message: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    """What the requester is told."""
    profiles: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=100)] = ()
    """The profiles it is about; none means all."""
    stages: Annotated[tuple[Stage, ...], msgspec.Meta(max_length=5)] = ()
    """For ``ask``: who must agree; one who holds the role ``approver`` unless said."""
    wait: Annotated[int, msgspec.Meta(ge=60, le=_LONGEST_TIME)] = _DEFAULT_TIME
    """For ``ask``: seconds that a request waits for people."""
    good_for: Annotated[int, msgspec.Meta(ge=0, le=_LONGEST_TIME)] = _DEFAULT_TIME
    """For ``ask``: seconds that their agreement serves further requests for the same."""
    enabled: bool = True

    def terms(self) -> ApprovalTerms:
        """Who must agree, where its effect is ``ask``."""
        return ApprovalTerms(self.stages or (Stage(),), self.wait, self.good_for)


_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(Rule).decode


def parse_rule(data: Mapping[str, Any] | str | bytes) -> Rule:
    """A rule from a table or from JSON, its condition judged. Raises ``RuleError``.

    Durations may be written ``7d``. To be saved, its condition must also pass ``expressions.trial``.
    """
    try:
        table = msgspec.json.decode(data) if isinstance(data, str | bytes) else data
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RuleError("$", f"not JSON: {error}") from None
    if not isinstance(table, Mapping):
        raise RuleError("$", "a rule is a table")
    plain = dict(table)
    for key in ("wait", "good_for"):
        if isinstance(plain.get(key), str):
            try:
                plain[key] = parse_duration(plain[key])
            except ValueError as error:
                raise RuleError(f"$.{key}", str(error)) from None
    try:
        rule = msgspec.convert(plain, Rule)
    except msgspec.ValidationError as error:
        message, at, path = str(error).rpartition(" - at `")
        raise RuleError(path.rstrip("`") if at else "$", message if at else str(error)) from None
    check_rule(rule)
    return rule


def stored_rule(body: str) -> Rule:
    """A rule as ``encode_rule`` wrote it. It was judged when it was saved; ``Ruleset`` judges it again."""
    return _decode(body)


def check_rule(rule: Rule) -> None:
    """What a rule's types do not say. Raises ``RuleError``."""
    try:
        check(rule.when)
    except ExpressionError as error:
        raise RuleError("$.when", str(error)) from None
    if rule.stages and rule.effect != "ask":
        raise RuleError("$.stages", f"nobody is asked by a rule whose effect is {rule.effect}")
    if len(set(rule.profiles)) != len(rule.profiles):
        raise RuleError("$.profiles", "a profile is here twice")


def encode_rule(rule: Rule) -> str:
    """Canonical JSON, with every default spelled out: a later default does not change an old version."""
    return _encode(rule).decode()


class Load(msgspec.Struct, frozen=True):
    """What the rules that are asked together can cost at worst."""

    steps: int
    profile: str = ""
    """The profile they are about; empty where it is the same for all."""
    largest: tuple[str, ...] = ()
    """``name (steps)`` of those that cost most."""


def heaviest(rules: Iterable[Rule]) -> Load:
    """What one request can cost at worst: all enabled rules about the profile for which that is most."""
    costs = [(_steps(rule), rule) for rule in rules if rule.enabled]
    more: dict[str, int] = {}
    for steps, rule in costs:
        for name in rule.profiles:
            more[name] = more.get(name, 0) + steps
    profile = max(more, key=lambda name: more[name], default="")
    about = [(steps, rule.name) for steps, rule in costs if not rule.profiles or profile in rule.profiles]
    largest = sorted(about, key=lambda pair: (-pair[0], pair[1]))[:3]
    told = tuple(f"{name} ({steps})" for steps, name in largest)
    return Load(sum(steps for steps, _ in about), profile, told)


def _steps(rule: Rule) -> int:
    try:
        return compile_condition(rule.when).checked.steps
    except ExpressionError:
        return 0  # It is not evaluated: see ``_Compiled``.


class Judgement(msgspec.Struct, frozen=True):
    """What the rules say together."""

    refusals: tuple[Reason, ...] = ()
    questions: tuple[Reason, ...] = ()
    """Why people must be asked."""
    terms: tuple[ApprovalTerms, ...] = ()
    """Of each rule that asks, in the order of ``questions``."""
    warnings: tuple[Reason, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    """Of every rule that is about the profile, in their order."""


NOTHING_SAID = Judgement()


class _Compiled:
    __slots__ = ("condition", "error", "of_the_key", "profiles", "rule", "text", "uses", "uses_history")

    def __init__(self, rule: Rule, version: int) -> None:
        self.rule = rule
        self.text = f"{rule.name}@{version}"
        self.condition: Condition | None = None
        self.error: str | None = None
        try:
            self.condition = compile_condition(rule.when)
        except ExpressionError as error:
            # Saved by another version, which took it: it stands in the way until somebody looks at it.
            self.error = str(error)
        self.uses = frozenset[str]() if self.condition is None else self.condition.uses
        self.profiles = frozenset(rule.profiles)
        self.of_the_key = bool(self.uses & OF_THE_KEY)
        self.uses_history = "inventory" in self.uses


class Ruleset:
    """The rules in force, compiled; sorted by name, so that reasons come in a known order."""

    __slots__ = ("_rules", "_uses", "needs_history")

    def __init__(self, rules: Iterable[tuple[Rule, int]] = ()) -> None:
        """Of (rule, version) pairs; those that are not enabled are left out."""
        kept = sorted((pair for pair in rules if pair[0].enabled), key=lambda pair: pair[0].name)
        self._rules = tuple(_Compiled(rule, version) for rule, version in kept)
        self._uses = tuple(sorted({path for rule in self._rules for path in rule.uses}))
        self.needs_history: bool = any(rule.uses_history for rule in self._rules)
        """Whether ``Facts.history`` must be there: some rule looks at ``inventory``."""

    def __bool__(self) -> bool:
        """Whether there is any rule in force."""
        return bool(self._rules)

    @property
    def uses(self) -> tuple[str, ...]:
        """Every path that some rule looks at."""
        return self._uses

    def judge(self, moment: Moment) -> Judgement:
        """What each rule says to one ask.

        Where there is no key yet (an ACME order that is only being made), rules over the key, the subject or,
        without history, the inventory are left out: they are asked when there is one.
        """
        facts = moment.facts
        preliminary = not facts.key.algorithm
        over = context(collect(self._uses, moment))
        refusals: list[Reason] = []
        questions: list[Reason] = []
        terms: list[ApprovalTerms] = []
        warnings: list[Reason] = []
        verdicts: list[Verdict] = []
        for compiled in self._rules:
            rule = compiled.rule
            if compiled.profiles and moment.profile.name not in compiled.profiles:
                continue
            unknown = compiled.uses_history and facts.history is None
            if preliminary and (unknown or compiled.of_the_key):
                continue
            error = compiled.error
            if compiled.condition is None:
                matched = True
            elif unknown:
                matched, error = True, "what the inventory knows was not looked up"
            else:
                try:
                    matched = compiled.condition.holds(over)
                except EvaluationError as failed:
                    matched, error = True, str(failed)
            verdicts.append(
                Verdict(compiled.text, rule.effect, matched, rule.message if matched else "", error)
            )
            if not matched:
                continue
            if rule.effect == "refuse":
                refusals.append(Reason("rule-refuses", rule.message, rule=compiled.text))
            elif rule.effect == "ask":
                questions.append(Reason("rule-asks", rule.message, rule=compiled.text))
                terms.append(rule.terms())
            else:
                warnings.append(Reason("rule-warns", rule.message, rule=compiled.text))
        return Judgement(tuple(refusals), tuple(questions), tuple(terms), tuple(warnings), tuple(verdicts))


NO_RULES = Ruleset()
"""Where nobody made any: costs nothing."""


def merged_terms(all_terms: Iterable[ApprovalTerms], may_change: tuple[str, ...]) -> ApprovalTerms:
    """All that any of them demands.

    Stages stand one after another; a role that is asked twice is asked once, for the larger count, unless one
    and the same source asks it in several stages. A request waits as long as the most patient one says; the
    agreement is good for as long as the strictest one says.
    """
    stages: tuple[Stage, ...] = ()
    wait, good_for = 0, _LONGEST_TIME
    for terms in all_terms:
        stages = _merged(stages, terms.stages)
        wait, good_for = max(wait, terms.wait), min(good_for, terms.good_for)
    return ApprovalTerms(stages, wait, good_for, may_change)


def _merged(stages: tuple[Stage, ...], more: tuple[Stage, ...]) -> tuple[Stage, ...]:
    found = list(stages)
    taken: set[int] = set()
    for stage in more:
        at = next((i for i, s in enumerate(found) if s.role == stage.role and i not in taken), None)
        if at is None:
            taken.add(len(found))
            found.append(stage)
        else:
            taken.add(at)
            if found[at].approvers < stage.approvers:
                found[at] = stage
    return tuple(found)
