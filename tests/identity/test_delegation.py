"""Comparing what people hold: nobody gives more than they have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certloom.identity.delegation import Refusal, check_giving, covers, intersect, pattern_within, within
from certloom.identity.principals import BUILT_IN, Grant, Principal, Role, Scope, Thing, holding, local
from certloom.pki.identifiers import Identifier, IdentifierType
from certloom.policy.name_rules import matches
from tests.identity.making import grant


def principal(*grants: Grant, owner: str = "p1", roles: dict[str, Role] | None = None) -> Principal:
    return Principal(kind="person", id=owner, name=owner, owner=owner, held=holding(grants, roles or {}))


@pytest.mark.parametrize(
    ("inner", "outer", "inside"),
    [
        ("a.example.com", "**", True),
        ("**", "**.com", False),
        ("a.example.com", "*.example.com", True),
        ("a.b.example.com", "*.example.com", False),
        ("a.b.example.com", "**.example.com", True),
        ("example.com", "**.example.com", False),
        ("*.example.com", "**.example.com", True),
        ("*.b.example.com", "**.example.com", True),
        ("**.example.com", "*.example.com", False),
        ("**.b.example.com", "**.example.com", True),
        ("**.example.com", "**.b.example.com", False),
        ("**.badexample.com", "**.example.com", False),
        ("host", "*", True),
        ("*", "**.com", False),
        ("10.0.0.0/16", "10.0.0.0/8", True),
        ("10.0.0.0/8", "10.0.0.0/16", False),
        ("10.0.0.1", "::/0", False),
        ("a@example.com", "@example.com", True),
        ("a@x.example.com", "@**.example.com", True),
        ("@example.com", "a@example.com", False),
        ("spiffe://prod/ns/a", "spiffe://prod/ns", True),
        ("spiffe://prod/nsa", "spiffe://prod/ns", False),
        ("spiffe://prod", "a.example.com", False),
    ],
)
def test_one_pattern_lies_within_another(inner: str, outer: str, inside: bool) -> None:
    assert pattern_within(inner, outer) is inside


_labels = st.lists(st.sampled_from(("a", "b", "com")), min_size=1, max_size=4).map(".".join)
_patterns = st.one_of(
    _labels, _labels.map("*.".__add__), _labels.map("**.".__add__), st.sampled_from(("*", "**"))
)


@given(_patterns, _patterns, _labels)
def test_what_lies_within_never_matches_more(inner: str, outer: str, name: str) -> None:
    identifier = Identifier(IdentifierType.DNS, name)
    if pattern_within(inner, outer) and matches(inner, identifier):
        assert matches(outer, identifier)


def test_an_unrestricted_axis_is_not_within_a_restricted_one() -> None:
    assert within(Scope(teams=("a",)), Scope())
    assert not within(Scope(), Scope(teams=("a",)))
    assert not within(Scope(names=("**",)), Scope(names=("**.example.com",)))
    assert within(Scope(teams=("a",), names=("x.example.com",)), Scope(names=("*.example.com",)))


def test_nobody_gives_a_role_that_holds_more_than_they_do() -> None:
    operator = principal(grant("operator"))
    with pytest.raises(Refusal, match=r"person\.write"):
        check_giving(operator, [grant("admin")], {}, owner="p2")
    with pytest.raises(Refusal, match=r"approval\.decide"):
        check_giving(operator, [grant("approver")], {}, owner="p2")
    check_giving(operator, [grant("operator"), grant("requester")], {}, owner="p2")
    check_giving(principal(grant("admin")), [grant("admin")], {}, owner="p2")
    check_giving(local("root"), [grant("admin")], {}, owner="p2")


def test_nobody_gives_a_wider_scope_than_theirs() -> None:
    confined = principal(grant("admin", teams=("a",), names=("**.a.example",)))
    check_giving(confined, [grant("admin", teams=("a",), names=("x.a.example",))], {}, owner="p2")
    for wider in (
        grant("admin"),
        grant("admin", teams=("a",)),
        grant("admin", teams=("a", "b"), names=("x.a.example",)),
        grant("operator", teams=("a",), names=("**",)),
    ):
        with pytest.raises(Refusal):
            check_giving(confined, [wider], {}, owner="p2")


def test_a_role_confined_to_ones_own_is_not_given_to_others() -> None:
    requester = principal(grant("requester"))
    check_giving(requester, [grant("requester")], {}, owner="p1")
    with pytest.raises(Refusal):
        check_giving(requester, [grant("requester")], {}, owner="p2")


def test_a_role_that_stages_ask_for_by_name_is_given_only_by_who_holds_it() -> None:
    roles = {
        "people-admin": Role(name="people-admin", permissions=frozenset({"person.write", "approval.decide"})),
        "security": Role(name="security", permissions=frozenset({"approval.decide"})),
    }
    clerk = principal(grant("people-admin"), roles=roles)
    with pytest.raises(Refusal, match="only who holds"):
        check_giving(clerk, [grant("security")], roles, owner="p2")
    both = principal(grant("people-admin"), grant("security"), roles=roles)
    check_giving(both, [grant("security")], roles, owner="p2")


def test_a_role_that_is_no_more_cannot_be_given() -> None:
    with pytest.raises(Refusal, match="no role"):
        check_giving(local("root"), [grant("gone")], {}, owner="p2")


def test_a_token_holds_what_it_and_its_person_both_hold() -> None:
    person = holding([grant("approver", teams=("a", "b"))], {})
    token = holding([grant("operator", teams=("b", "c"))], {})
    acting = Principal(kind="token", id="t", name="t", owner="p1", held=intersect(person, token))
    assert acting.may("certificate.read", Thing(team="b"))
    assert not acting.may("certificate.read", Thing(team="a"))
    assert not acting.may("certificate.read", Thing(team="c"))
    assert not acting.may("approval.decide", Thing(team="b"))
    assert not acting.may("certificate.revoke", Thing(team="b"))
    assert not acting.has_role("approver", Thing(team="b"))


def test_what_is_whole_keeps_its_name() -> None:
    person = holding([grant("approver")], {})
    assert [held.role.name for held in intersect(person, holding([grant("approver")], {}))] == ["approver"]
    assert [held.role.name for held in intersect(person, holding([grant("admin")], {}))] == ["approver"]


def test_scopes_with_nothing_in_common_leave_nothing() -> None:
    one = holding([grant("operator", names=("**.a.example",))], {})
    assert intersect(one, holding([grant("operator", names=("**.b.example",))], {})) == ()
    narrowed = intersect(one, holding([grant("operator", names=("**", "**.b.example"))], {}))
    assert narrowed[0].scope.names == ("**.a.example",)


def test_built_in_roles_cover_as_they_say() -> None:
    for name, role in BUILT_IN.items():
        held = principal(grant(name))
        assert all(covers(held, p, Scope(), "p1" if role.own else None) for p in role.permissions)
