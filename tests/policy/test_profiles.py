from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest

from certloom.policy.decisions import LintMode
from certloom.policy.profile_parts import ECKeys, RSAKeys
from certloom.policy.profiles import ProfileError, default_profiles, encode_profile, parse_profile
from tests.policy.asks import table

WHOLE = """
name = "gateways"
description = "VPN gateways"
authority = "issuing"
key_usage = ["digitalSignature"]
extended_key_usage = ["serverAuth", "1.3.6.1.5.5.7.3.17"]
subject = [
    { type = "O", value = "Example" },
    { type = "CN", value = "{csr.CN}", allow = ["gw-*"], required = true },
]
keys = [
    { type = "rsa", min = 3072, max = 4096, key_usage = ["digitalSignature", "keyEncipherment"] },
    { type = "ec", curves = ["P-384"] },
]

[names]
types = ["dns", "ip", "uri", "email"]
wildcards = true
max = 10
dns = { allow = ["**.example.com"], deny = ["secret.example.com"] }
ip = { allow = ["10.0.0.0/8"] }
uri = { schemes = ["spiffe"], allow = ["spiffe://prod/"] }
email = { allow = ["example.com"] }

[validity]
default = "30d"
max = "60d"
backdate = "5m"

[renewal]
start = "10d"
end = "5d"

[[extensions]]
oid = "1.3.6.1.5.5.7.1.24"
value = "3003020105"

[approval]
approvers = 2
wait = "3d"

[lint]
mode = "every"
level = "error"
"""


def test_a_profile_is_read_from_toml() -> None:
    profile = parse_profile(tomllib.loads(WHOLE))
    assert profile.keys == (
        RSAKeys(min=3072, max=4096, key_usage=("digitalSignature", "keyEncipherment")),
        ECKeys(curves=("P-384",)),
    )
    assert (profile.validity.default, profile.validity.max, profile.validity.backdate) == (
        30 * 86400,
        60 * 86400,
        300,
    )
    assert (profile.renewal.start, profile.renewal.end) == (10 * 86400, 5 * 86400)
    assert (profile.approval.approvers, profile.approval.wait) == (2, 3 * 86400)
    assert profile.lint.mode is LintMode.EVERY


def test_canonical_json_means_the_same_profile() -> None:
    for profile in (parse_profile(tomllib.loads(WHOLE)), *default_profiles("issuing")):
        text = encode_profile(profile)
        assert parse_profile(text) == profile
        assert parse_profile(json.loads(text)) == profile
        assert encode_profile(parse_profile(text)) == text


def test_canonical_json_does_not_depend_on_how_it_was_written() -> None:
    one = table(validity={"default": "90d", "backdate": "1h"})
    other = dict(reversed(table(validity={"backdate": 3600, "default": 7_776_000}).items()))
    assert encode_profile(parse_profile(one)) == encode_profile(parse_profile(other))


def test_canonical_json_spells_defaults_out() -> None:
    assert json.loads(encode_profile(parse_profile(table())))["names"]["max"] == 100


@pytest.mark.parametrize(
    ("changes", "path", "says"),
    [
        ({"colour": "red"}, "$.colour", "unknown field"),
        ({"name": "Web"}, "$.name", "regex"),
        ({"keys": []}, "$.keys", "length"),
        ({"keys": [{"type": "dsa"}]}, "$.keys[0].type", "dsa"),
        ({"keys": [{"type": "rsa", "min": 1024}]}, "$.keys[0].min", "2048"),
        ({"keys": [{"type": "rsa", "max": 16384}]}, "$.keys[0].max", "8192"),
        ({"keys": [{"type": "rsa", "min": 4096, "max": 3072}]}, "$.keys[0].min", "more than max"),
        ({"keys": [{"type": "ec"}, {"type": "ec"}]}, "$.keys[1].type", "already"),
        ({"keys": [{"type": "ec", "curves": ["P-224"]}]}, "$.keys[0].curves[0]", "P-224"),
        ({"keys": [{"type": "ed25519", "min": 256}]}, "$.keys[0].min", "unknown field"),
        ({"keys": [{"type": "ec", "key_usage": ["keyEncipherment"]}]}, "$.keys[0].key_usage", "RFC 8813"),
        ({"key_usage": ["digitalSignature", "keyEncipherment"]}, "$.key_usage", "RFC 8813"),
        ({"key_usage": ["keyCertSign"]}, "$.key_usage", "CA"),
        ({"key_usage": "automatic"}, "$.key_usage", "enum"),
        (
            {"keys": [{"type": "ml-kem-768"}], "extended_key_usage": ["clientAuth"]},
            "$.keys[0].type",
            "no usage here fits",
        ),
        (
            {"keys": [{"type": "ml-kem-768", "key_usage": ["digitalSignature"]}]},
            "$.keys[0].key_usage",
            "RFC 9935",
        ),
        ({"server_keys": {"algorithms": ["ml-kem-768"]}}, "$.server_keys.algorithms[0]", "do not allow"),
        ({"server_keys": {"algorithms": ["ml-kem-512"]}}, "$.server_keys.algorithms[0]", "ml-kem-512"),
        ({"lint": {"rules": "cabf"}}, "$.lint.rules", "cabf"),
        ({"ct": {}}, "$.ct.logs", "missing"),
        ({"ct": {"logs": []}}, "$.ct.logs", "length"),
        ({"ct": {"logs": ["a", "a"]}}, "$.ct.logs", "twice"),
        ({"ct": {"logs": ["A"], "needed": 1}}, "$.ct.logs[0]", "regex"),
        ({"ct": {"logs": ["a"]}}, "$.ct.needed", "2 of 1"),
        ({"ct": {"logs": ["a"], "needed": 0}}, "$.ct.needed", ">= 1"),
        ({"extended_key_usage": ["tls"]}, "$.extended_key_usage[0]", "serverAuth"),
        ({"extended_key_usage": ["serverAuth", "1.3.6.1.5.5.7.3.1"]}, "$.extended_key_usage[1]", "twice"),
        ({"subject": [{"type": "XX", "value": "a"}]}, "$.subject[0].type", "XX"),
        ({"subject": [{"type": "CN", "value": "{first_ip}"}]}, "$.subject[0].value", "placeholder"),
        ({"subject": [{"type": "CN", "value": "{csr.CN"}]}, "$.subject[0].value", "brace"),
        ({"subject": [{"type": "CN", "value": "192.0.2.1"}]}, "$.subject[0].value", "IP address"),
        ({"subject": [{"type": "CN", "value": "[2001:db8::1]"}]}, "$.subject[0].value", "IP address"),
        ({"subject": [{"type": "C", "value": "Germany"}]}, "$.subject[0].value", "2 characters"),
        ({"subject": [{"type": "C", "value": "de"}]}, "$.subject[0].value", "capital"),
        ({"subject": [{"type": "O", "value": "x" * 65}]}, "$.subject[0].value", "64"),
        ({"subject": [{"type": "O", "value": "a", "allow": ["a"]}]}, "$.subject[0].allow", "fixed"),
        ({"subject": [{"type": "O", "value": "{csr.O}", "allow": ["*" * 5]}]}, "$.subject[0].allow", "stars"),
        ({"names": {"types": ["host"]}}, "$.names.types[0]", "host"),
        ({"names": {"types": ["dns", "dns"]}}, "$.names.types", "twice"),
        ({"names": {"types": []}}, "$.names.required", "required"),
        ({"names": {"required": False}}, "$.names.required", "subject"),
        ({"names": {"types": ["ip"], "wildcards": True}}, "$.names.wildcards", "DNS"),
        ({"names": {"ip": {"allow": ["10.0.0.0/8"]}}}, "$.names.ip", "not allowed"),
        ({"names": {"dns": {"allow": ["a.example", "b..c"]}}}, "$.names.dns.allow[1]", "b..c"),
        ({"names": {"types": ["ip"], "ip": {"deny": ["10.0.0.1/8"]}}}, "$.names.ip.deny[0]", "host bits"),
        ({"names": {"types": ["uri"], "uri": {"schemes": ["HTTP"]}}}, "$.names.uri.schemes[0]", "regex"),
        ({"names": {"max": 0}}, "$.names.max", "1"),
        ({"names": {"max": 100_000}}, "$.names.max", "1000"),
        ({"validity": {}}, "$.validity.default", "missing"),
        ({"validity": {"default": "90 days"}}, "$.validity.default", "90d"),
        ({"validity": {"default": "1s"}}, "$.validity.default", "60"),
        ({"validity": {"default": "90d", "max": "30d"}}, "$.validity.max", "less"),
        ({"validity": {"default": "1h", "backdate": "30m"}}, "$.validity.backdate", "quarter"),
        ({"renewal": {"start": 0.1}}, "$.renewal.start", "three quarters"),
        ({"renewal": {"start": 0.5, "end": 1.0}}, "$.renewal.end", "three quarters"),
        ({"renewal": {"start": 0.8, "end": 0.6}}, "$.renewal.end", "after"),
        ({"renewal": {"start": "10d", "end": "20d"}}, "$.renewal.end", "after"),
        ({"renewal": {"start": "100d", "end": "20d"}}, "$.renewal.start", "three quarters"),
        ({"extensions": [{"oid": "2.5.29.17", "value": "3000"}]}, "$.extensions[0].oid", "subjectAltName"),
        ({"extensions": [{"oid": "1.2.3", "value": "0500"}] * 2}, "$.extensions[1].oid", "once"),
        ({"extensions": [{"oid": "1.99.3", "value": "0500"}]}, "$.extensions[0].oid", "1.99.3"),
        ({"extensions": [{"oid": "1.2.3", "value": "xx00"}]}, "$.extensions[0].value", "hexadecimal"),
        ({"extensions": [{"oid": "1.2.3", "value": "050000"}]}, "$.extensions[0].value", "DER"),
        ({"extensions": [{"oid": "1.2.3", "value": "30030201"}]}, "$.extensions[0].value", "DER"),
        ({"extensions": [{"oid": "1.2.3", "value": "300302010530"}]}, "$.extensions[0].value", "DER"),
        ({"approval": {"approvers": -1}}, "$.approval.approvers", "0"),
        ({"approval": {"good_for": "soon"}}, "$.approval.good_for", "duration"),
        ({"lint": {"mode": "never"}}, "$.lint.mode", "never"),
        ({"lint": {"level": "info"}}, "$.lint.level", "info"),
    ],
)
def test_what_cannot_be_is_refused_with_its_path(changes: dict[str, Any], path: str, says: str) -> None:
    with pytest.raises(ProfileError) as caught:
        parse_profile(table(**changes))
    assert caught.value.path == path
    assert says in str(caught.value)


@pytest.mark.parametrize("data", ["", "[]", "{", b"\xff\xfe", "null"])
def test_what_is_no_table_is_refused(data: str | bytes) -> None:
    with pytest.raises(ProfileError) as caught:
        parse_profile(data)
    assert caught.value.path == "$"


def test_the_table_given_is_left_as_it_was() -> None:
    given = table()
    parse_profile(given)
    assert given == table()


def test_there_are_three_default_profiles() -> None:
    profiles = default_profiles("issuing")
    assert [profile.name for profile in profiles] == ["tls-server", "tls-client", "device"]
    assert {profile.authority for profile in profiles} == {"issuing"}
    assert [profile.extended_key_usage for profile in profiles] == [
        ("serverAuth",),
        ("clientAuth",),
        ("clientAuth",),
    ]
