"""Settings are read strictly: what is wrong is named with its path."""

from __future__ import annotations

from pathlib import Path

import pytest

from certloom.settings import Settings, SettingsError, load, origins, parse


def problems(text: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        parse(text)
    return caught.value.problems


def test_no_file_and_an_empty_file_give_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text("")
    assert load(None) == load(tmp_path / "empty.toml") == Settings()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"missing\.toml: No such file"):
        load(tmp_path / "missing.toml")


@pytest.mark.parametrize("data", [b"\xff", b"a =", b"a = 1\na = 2"])
def test_what_is_not_toml_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad.toml").write_bytes(data)
    with pytest.raises(SettingsError, match="not "):
        load(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("colour = 'red'", "$.colour: unknown key"),
        ("[listen]\nhttps_port = 1", "$.listen.https_port: unknown key"),
        ("[listen]\nhttps = 8443", "$.listen.https: expected `str`, got `int`"),
        ("[limits]\nbody_bytes = 0", "$.limits.body_bytes: expected `int` >= 1"),
        ("[limits]\nbody_bytes = '1'", "$.limits.body_bytes: expected `int`, got `str`"),
        ("[acme]\nrefuse_good_nonces = 1.5", "$.acme.refuse_good_nonces: expected `float` <= 1.0"),
        ("[validation]\nretries = [1, 'a']", "$.validation.retries[1]: expected `int`, got `str`"),
        ("[logging]\nlevel = 'loud'", "$.logging.level: expected `str` matching regex"),
        ("listen = 'all'", "$.listen: expected `object`, got `str`"),
        ("data_dir = ''", "$.data_dir: must not be empty"),
        ("[listen]\nhttps = '8443'", "$.listen.https: '8443': expected host:port"),
        ("[listen]\nhttps = '::1:8443'", "$.listen.https: '::1:8443': an IPv6 address stands in brackets"),
        ("[listen]\nhttps = 'a b:1'", "$.listen.https: 'a b:1': 'a b' is not a host name"),
        ("[listen]\nhttps = '300.1.1.1:1'", "$.listen.https: '300.1.1.1:1': '300.1.1.1' is not an IPv4"),
        ("[listen]\nhttps = 'a:70000'", "$.listen.https: 'a:70000': '70000' is not a port"),
        ("[listen]\nacme_plain = '0.0.0.0:80'", "$.listen.acme_plain: '0.0.0.0:80': ACME without TLS"),
        ("[listen]\ntls_key = 'k'", "$.listen.tls_certificate: needed because tls_key is set"),
        ("[listen]\nhttp = ''", "$.public_http_url: needed because listen.http is off"),
        ("public_url = 'http://a'", "$.public_url: 'http://a': expected https://host[:port]"),
        ("public_url = 'https://a/'", "$.public_url: 'https://a/': an origin has no path"),
        ("public_http_url = 'https://a'", "$.public_http_url: 'https://a': expected http://host[:port]"),
        ("[acme]\nwebsite = 'me'", "$.acme.website: 'me': expected an http or https URL"),
        ("[validation]\nresolvers = ['1.1.1.1', 'dns']", "$.validation.resolvers[1]: 'dns': expected an IP"),
        ("[validation]\nallow_addresses = ['10.0.0.1/8']", "$.validation.allow_addresses[0]: '10.0.0.1/8'"),
        ("[validation]\ndeny_addresses = ['']", "$.validation.deny_addresses[0]: "),
    ],
)
def test_a_bad_key_or_value_is_refused_with_its_path(text: str, problem: str) -> None:
    found = problems(text)
    assert any(line.startswith(problem) for line in found), found


def test_everything_that_is_wrong_is_told_at_once() -> None:
    assert len(problems("public_url = 'x'\n[listen]\nhttp = 'x'\nhttps = 'y'")) == 3


def test_a_database_url_is_never_repeated_for_it_may_hold_a_password() -> None:
    assert problems("[database]\nurl = 'mysql://u:geheim@h/db'") == [
        "$.database.url: expected sqlite:///path or postgresql://..."
    ]


def test_origins_are_those_given_or_follow_from_the_listeners() -> None:
    plain = origins(Settings(), "pki.example.com")
    assert plain.https == "https://localhost:8443"
    assert plain.http == "http://pki.example.com:8080"
    assert plain.acme_plain == ""
    bound = parse("[listen]\nhttps='[::1]:0'\nhttp='[::1]:0'\nacme_plain='127.0.0.1:0'")
    found = origins(bound, "x", {"https": 1, "http": 2, "acme_plain": 3})
    assert (found.https, found.http, found.acme_plain) == (
        "https://localhost:1",
        "http://[::1]:2",
        "http://127.0.0.1:3",
    )
    one = parse("[listen]\nhttps='127.0.0.9:8443'")
    assert origins(one, "x").https == "https://127.0.0.9:8443"
    given = parse(
        "public_url='https://a'\npublic_http_url='http://b'\nacme_plain_url='https://c'\n"
        "[listen]\nacme_plain='127.0.0.1:1'"
    )
    found = origins(given, "x")
    assert (found.https, found.http, found.acme_plain) == ("https://a", "http://b", "https://c")
