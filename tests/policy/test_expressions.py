"""Conditions: what is taken, what is refused when it is saved, and that nothing that is saved hangs."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certloom.policy.expressions import EvaluationError, ExpressionError, compile_condition
from certloom.policy.expressions.checking import FUNCTIONS, MOST_STEPS, check
from certloom.policy.expressions.condition import context, matches_name, touches, under
from certloom.policy.expressions.shapes import VARIABLES
from certloom.policy.expressions.syntax import LONGEST_SOURCE, parse, printed
from certloom.policy.expressions.trial import TrialError, try_out
from certloom.policy.expressions.trial_worker import LONGEST, find
from tests.conftest import run

VALUES: dict[str, Any] = {
    "request.dns": ["www.example.com", "a.prod.example.com"],
    "request.names": [{"type": "dns", "value": "www.example.com"}],
    "request.key.type": "rsa",
    "request.key.bits": 2048,
    "request.subject": {"O": "Example"},
    "request.channel": "web",
    "request.lifetime": 86400,
    "requester.team": "web",
    "now": 1_800_000_000,
    "inventory": [],
}


def holds(source: str, **values: Any) -> bool:
    condition = compile_condition(source)
    told = VALUES | {path.replace("__", "."): value for path, value in values.items()}
    return condition.holds(context({path: told[path] for path in condition.uses}))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('request.key.type == "rsa" && request.key.bits < 3072', True),
        ('request.dns.exists(n, under(n, "prod.example.com"))', True),
        ('request.dns.all(n, under(n, requester.team + ".example.com"))', False),
        ('request.names.exists(n, n.type == "dns" && n.value.endsWith("example.com"))', True),
        ('request.subject.O == "Example" && has(request.subject.O) && !has(request.subject.OU)', True),
        ('"O" in request.subject ? size(request.dns) == 2 : false', True),
        ("request.lifetime > 90 * 86400 || now % 2 == 1", False),
        (r'request.dns.exists(n, n.matches(r"^a\.[a-z]+\."))', True),
        ("request.dns.filter(n, n.contains('prod')).size() == 0x1", True),
        ("request.dns.map(n, size(n))[0] == 15 && -1 < 0 // a comment", True),
        ('request.channel == "\\u0077\\x65b" && "\'\\"\\\\\\n" != ""', True),
        ('request.dns.exists_one(n, n in ["www.example.com", "x"])', True),
        ('request.dns.exists(n, ["prod", "test"].exists(s, n.contains(s)))', True),
        ("has(request.key.bits) && 1 + 2 * 3 - 4 / 2 == 5", True),
    ],
)
def test_conditions_mean_what_cel_says(source: str, expected: bool) -> None:
    assert holds(source) is expected


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "'the end' is not understood"),
        ("request.foo == 1", "line 1, column 8: there is no field 'foo'"),
        ("\n  whatever", "line 2, column 3: there is no variable 'whatever'"),
        ("request.key.bits < '3072'", "between a int and a string"),
        ("request.key.bits", "a condition is true or false"),
        ("request == request", "between a struct and a struct"),
        ("cel.bind(x, 1, x) == 1", "there is no function 'bind'"),
        ("timestamp('2020-01-01T00:00:00Z') > 1", "there is no function 'timestamp'"),
        ("request.dns.exists(request, true)", "has a meaning already"),
        ("request.dns.map(a, request.dns.map(b, [1].map(c, c))).size() > 1", "nested 2 deep"),
        ("request.dns.exists(n, request.dns.exists(m, m == n))", "steps"),
        ("request.channel.matches(requester.team)", "must be written out"),
        ("matches_name('a', 'b c')", "is not a DNS name"),
        ("1.5 > 1", "a field was expected"),
        ("null == null", "has no meaning here"),
        ("{'a': 1}.a == 1", "'{' is not understood"),
        ("request.dns + request.dns == []", "'+' does nothing with a list"),
        ("b'a' == b'a'", "not understood"),
        ("1 == 99999999999999999999", "too large"),
        ("'\\q' == ''", "is not an escape"),
        ("'\\u0000' == ''", "a character that is none"),
        ("request.dns.exists(n, n == 1)", "between a string and a int"),
        (f"{'(' * 40}true{')' * 40}", "nested deeper"),
        (f"{'!' * 40}true", "nested deeper"),
        ("1" + "+1" * 40 + " == 1", "nested deeper"),
        ("true" + " || true" * 600, "characters, of at most"),
        (" || ".join(["true"] * 501), "more than 500 parts"),
        (f"1 in [{', '.join(['1'] * 101)}]", "more than 100 items"),
        ("true //" + "x" * LONGEST_SOURCE, "characters, of at most"),
    ],
)
def test_what_no_condition_may_be_is_refused_with_its_place(source: str, said: str) -> None:
    with pytest.raises(ExpressionError) as refused:
        check(source)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("name", "domain", "expected"),
    [
        ("prod.example.com", "prod.example.com", True),
        ("a.b.prod.example.com", "prod.example.com", True),
        ("*.prod.example.com", "prod.example.com", True),
        ("evilprod.example.com", "prod.example.com", False),
        ("prod.example.com.evil.test", "prod.example.com", False),
        ("*.example.com", "prod.example.com", False),
        ("root@prod.example.com", "prod.example.com", True),
        ("a.example.com", "", False),
        ("a.example.com", ".example.com", False),
    ],
)
def test_under_goes_label_by_label(name: str, domain: str, expected: bool) -> None:
    assert under(name, domain) is expected


def test_patterns_are_those_of_profiles() -> None:
    assert matches_name("a.example.com", "*.example.com")
    assert not matches_name("*.example.com", "prod.example.com")
    assert touches("*.example.com", "prod.example.com")
    assert matches_name("10.1.2.3", "10.0.0.0/8")
    assert not matches_name("root@example.com", "**.com")
    assert matches_name("root@example.com", "@example.com")
    assert matches_name("spiffe://prod/a", "spiffe://prod")


def test_what_has_no_value_is_an_error_and_not_false() -> None:
    with pytest.raises(EvaluationError):
        holds("request.dns[7] == 'a'")
    with pytest.raises(EvaluationError):
        holds("request.key.bits * 9223372036854775807 > 0")
    with pytest.raises(EvaluationError):
        holds("request.subject.OU == 'x'")


@pytest.mark.parametrize(
    "source",
    [
        'request.key.type == "rsa" && request.key.bits < 3072'
        ' && request.dns.exists(n, under(n, "prod.example.com"))',
        'inventory.exists(h, h.last_team != "" && h.last_team != requester.team)',
        'request.dns.exists(n, n.matches("^a[0-9]+"))',
    ],
)
def test_ordinary_conditions_stand_their_trial(source: str) -> None:
    run(try_out([source]))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ('request.dns.exists(n, n.matches("("))', "line 1, column 33: not a regular expression"),
        (r'request.dns.exists(n, n == "x" && n.matches(r"^\w{1,30}$"))', "this takes"),
        ('request.channel.matches("(\\\\w{1,1000}){1,100}")', "size limit"),
        ("false && request.names.map(n, n).exists(n, n.value == '')", "it takes"),
    ],
)
def test_what_is_slow_fails_its_trial_also_where_it_is_not_reached(source: str, said: str) -> None:
    with pytest.raises(TrialError) as refused:
        run(try_out(["true", source]))
    assert said in str(refused.value)
    assert refused.value.index == 1


# -- whatever is saved never hangs ---------------------------------------------------------------------

_PATHS = [
    *(f"request.{field}" for field in VARIABLES["request"].fields if field != "key"),
    *("request.key.bits", "request.key.type", "requester.team", "inventory", "now", "n", "m"),
]
_leaves = st.one_of(
    st.sampled_from(_PATHS),
    st.integers(0, 2**63 - 1).map(str),
    st.sampled_from(['"a"', "'www.example.com'", "true", "false", "[]", '["a", "b"]', r'r"^\w+$"']),
)


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(inner, inner)
    return st.one_of(
        pairs.map(lambda p: f"({p[0]} + {p[1]})"),
        st.tuples(inner, st.sampled_from(["==", "<", "in", "&&", "||", "*", "%"]), inner).map(" ".join),
        st.tuples(
            inner, st.sampled_from(["map", "filter", "exists", "all"]), st.sampled_from(["n", "m"]), inner
        ).map(lambda p: f"{p[0]}.{p[1]}({p[2]}, {p[3]})"),
        st.tuples(st.sampled_from(sorted(FUNCTIONS)), inner, inner).map(lambda p: f"{p[0]}({p[1]}, {p[2]})"),
        st.tuples(inner, st.sampled_from(["size", "string"])).map(lambda p: f"{p[1]}({p[0]})"),
        pairs.map(lambda p: f"[{p[0]}, {p[1]}]"),
        inner.map(lambda p: f"!{p}"),
        st.tuples(inner, inner, inner).map(lambda p: f"({p[0]} ? {p[1]} : {p[2]})"),
    )


_texts = st.one_of(
    st.recursive(_leaves, _grown, max_leaves=25),
    st.lists(
        st.sampled_from(
            ["request", ".", "dns", "map", "(", ")", "[", "]", "n", ",", "==", "&&", "'a'", "1", "-"]
        )
    ).map(" ".join),
    st.text(max_size=60),
)


@settings(max_examples=400, deadline=None)
@given(_texts)
def test_any_text_is_judged_at_once_and_what_is_taken_is_quick(source: str) -> None:
    began = time.process_time()
    try:
        checked = check(source)
    except ExpressionError:
        assert time.process_time() - began < 0.2
        return
    assert time.process_time() - began < 0.2
    assert checked.steps <= MOST_STEPS
    if find(source).message:
        return
    took = time.process_time()
    find(source)
    # A trial evaluates it some times over; were it slow, the trial would have refused it.
    assert time.process_time() - took < 3 * LONGEST * (3 + 3 * len(checked.walks)) + 1


@settings(max_examples=200, deadline=None)
@given(_texts)
def test_what_is_printed_reads_as_the_same_again(source: str) -> None:
    try:
        tree = parse(source)
    except ExpressionError:
        return
    once = printed(tree)
    assert len(once) > LONGEST_SOURCE or printed(parse(once)) == once
