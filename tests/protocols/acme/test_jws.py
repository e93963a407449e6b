"""JWS: what is taken, what is refused and how, and that joserfc agrees."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws as oracle
from joserfc.jwk import import_key

from certloom.protocols.acme import base64url, jws
from certloom.protocols.acme.jwk import ALGORITHMS, account_key
from certloom.protocols.acme.problems import Problem
from tests.protocols.acme.signing import Key, algorithm, b64, flattened, jwk, new_key, thumbprint

URL = "https://ca.example/acme/web/new-order"
KINDS = ("P-256", "P-384", "P-521", "rsa", "ed25519", "ed448")


@pytest.fixture(scope="module")
def keys() -> dict[str, Key]:
    return {kind: new_key(kind) for kind in KINDS}


def header(**more: Any) -> dict[str, Any]:
    return {"url": URL, "nonce": "AAAA", "kid": "https://ca.example/acme/web/account/1", **more}


def encoded(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode()


def refused(body: bytes) -> Problem:
    with pytest.raises(Problem) as caught:
        jws.check_algorithm(jws.read(body))
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_signature_of_every_algorithm_verifies(keys: dict[str, Key], kind: str) -> None:
    key = keys[kind]
    request = jws.read(encoded(flattened(key, header(), b'{"a":1}')))
    jws.check_algorithm(request)
    jws.verify(request, account_key(json.dumps(jwk(key))))
    assert request.payload == b'{"a":1}'
    assert request.algorithm in ALGORITHMS


@pytest.mark.parametrize(("kind", "name"), [("ed25519", "Ed25519"), ("ed448", "Ed448")])
def test_the_newer_names_of_edwards_algorithms_are_known(keys: dict[str, Key], kind: str, name: str) -> None:
    # RFC 9864
    request = jws.read(encoded(flattened(keys[kind], header(alg=name), b"")))
    jws.check_algorithm(request)
    jws.verify(request, account_key(json.dumps(jwk(keys[kind]))))


@pytest.mark.parametrize("kind", KINDS)
def test_a_signature_by_another_key_is_malformed(keys: dict[str, Key], kind: str) -> None:
    request = jws.read(encoded(flattened(keys[kind], header(), b"")))
    with pytest.raises(Problem, match="does not verify") as caught:
        jws.verify(request, account_key(json.dumps(jwk(new_key(kind)))))
    assert caught.value.type == "malformed"


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "rsa", "ed25519"])
def test_joserfc_signs_what_verifies_here(keys: dict[str, Key], kind: str) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = keys[kind].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    name = {"rsa": "RSA", "ed25519": "OKP"}.get(kind, "EC")
    alg = algorithm(keys[kind])
    registry = oracle.JWSRegistry(algorithms=[alg], strict_check_header=False)
    key: Any = import_key(pem, name)  # type: ignore[call-overload]  # the name is one of a few
    members: Any = {"protected": header(alg=alg)}
    signed = oracle.serialize_json(members, b"payload", key, registry=registry)
    request = jws.read(encoded(dict(signed)))
    jws.verify(request, account_key(json.dumps(jwk(keys[kind]))))
    assert request.payload == b"payload"


@pytest.mark.parametrize("kind", KINDS[:5])
def test_thumbprints_are_those_of_joserfc(keys: dict[str, Key], kind: str) -> None:
    ours = account_key(json.dumps(jwk(keys[kind])))
    assert ours.thumbprint_text == thumbprint(keys[kind])
    assert ours.thumbprint_text == import_key(dict(jwk(keys[kind]))).thumbprint()


def test_zero_octets_before_a_number_do_not_change_the_thumbprint(keys: dict[str, Key]) -> None:
    # RFC 8555 section 8.1
    for kind, names in (("rsa", ("n", "e")), ("P-256", ("x", "y"))):
        plain = jwk(keys[kind])
        padded = {**plain, **{name: b64(b"\0\0" + base64url.decode(plain[name])) for name in names}}
        assert account_key(json.dumps(padded)).thumbprint == account_key(json.dumps(plain)).thumbprint


def test_the_order_of_a_jwk_and_its_other_members_do_not_matter(keys: dict[str, Key]) -> None:
    plain = jwk(keys["P-256"])
    shuffled = {"use": "sig", **dict(reversed(plain.items())), "kid": "x", "alg": "ES256"}
    assert account_key(json.dumps(shuffled)).canonical == account_key(json.dumps(plain)).canonical


@pytest.mark.parametrize(
    "change",
    [
        {"header": {"kid": "x"}},
        {"header": {}},
        {"signatures": []},
        {"payload": 3},
        {"payload": None},
        {"signature": "AA=="},
        {"signature": "A"},
        {"payload": "e30="},
        {"payload": "+/+/"},
        {"payload": "é"},
        {"payload": "e 30"},
    ],
)
def test_what_is_not_a_flattened_jws_is_malformed(keys: dict[str, Key], change: dict[str, Any]) -> None:
    message = {**flattened(keys["P-256"], header(), b"{}"), **change}
    assert refused(encoded(message)).type == "malformed"


@pytest.mark.parametrize(
    "more",
    [
        {"jwk": {"kty": "EC"}},
        {"kid": None},
        {"kid": 5},
        {"crit": ["exp"]},
        {"crit": []},
        {"b64": False},
        {"b64": False, "crit": ["b64"]},
        {"url": None},
        {"alg": 7},
        {"nonce": 7},
    ],
)
def test_bad_protected_headers_are_malformed(keys: dict[str, Key], more: dict[str, Any]) -> None:
    assert refused(encoded(flattened(keys["P-256"], header(**more), b""))).type == "malformed"


def test_neither_jwk_nor_kid_is_malformed(keys: dict[str, Key]) -> None:
    body = encoded(flattened(keys["P-256"], {"url": URL, "nonce": "AAAA"}, b""))
    assert refused(body).type == "malformed"


@pytest.mark.parametrize("alg", ["none", "HS256", "HS512", "RS1", "PS256", "ES256K", "", "x" * 9999])
def test_other_algorithms_are_refused_with_the_list_of_good_ones(keys: dict[str, Key], alg: str) -> None:
    problem = refused(encoded(flattened(keys["P-256"], header(alg=alg), b"")))
    assert problem.type == "badSignatureAlgorithm"
    assert json.loads(problem.document())["algorithms"] == list(ALGORITHMS)
    assert len(problem.document()) < 1000


def test_an_algorithm_that_is_not_the_keys_is_refused(keys: dict[str, Key]) -> None:
    request = jws.read(encoded(flattened(keys["P-256"], header(alg="ES384"), b"")))
    with pytest.raises(Problem) as caught:
        jws.verify(request, account_key(json.dumps(jwk(keys["P-256"]))))
    assert caught.value.type == "badSignatureAlgorithm"


@pytest.mark.parametrize(
    "bad",
    [
        {"kty": "oct", "k": "AAAA"},
        {"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"},
        {"kty": "EC", "crv": "P-256", "x": b64(b"\1" * 32), "y": b64(b"\1" * 32)},
        {"kty": "EC", "crv": "secp256k1", "x": b64(b"\1" * 32), "y": b64(b"\1" * 32)},
        {"kty": "EC", "crv": "P-256"},
        {"kty": "RSA", "n": b64(b"\xff" * 128), "e": "AQAB"},
        {"kty": "RSA", "n": b64(b"\xff" * 256), "e": "AQAB"},
        {"kty": "RSA", "n": b64(b"\xff" * 5000), "e": "AQAB"},
        {"kty": "RSA", "n": "", "e": ""},
        {"kty": "OKP", "crv": "X25519", "x": b64(b"\1" * 32)},
        {"kty": "OKP", "crv": "Ed25519", "x": b64(b"\1" * 31)},
        {"kty": "AKP"},
        {"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA", "junk": "x" * 5000},
    ],
)
def test_keys_that_cannot_be_used_are_bad_public_keys(bad: dict[str, str]) -> None:
    with pytest.raises(Problem) as caught:
        account_key(json.dumps(bad))
    assert caught.value.type == "badPublicKey"


def test_an_rsa_key_of_1024_bits_or_with_exponent_1_is_a_bad_public_key() -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    small = rsa.generate_private_key(65537, 1024)
    good = jwk(new_key("rsa"))
    for bad in (jwk(small), {**good, "e": "AQ"}):
        with pytest.raises(Problem) as caught:
            account_key(json.dumps(bad))
        assert caught.value.type == "badPublicKey"


def test_a_private_jwk_is_refused_and_not_echoed(keys: dict[str, Key]) -> None:
    with pytest.raises(Problem) as caught:
        account_key(json.dumps({**jwk(keys["P-256"]), "d": "c2VjcmV0"}))
    assert caught.value.type == "badPublicKey"
    assert b"c2VjcmV0" not in caught.value.document()


@given(st.binary(max_size=400))
def test_no_bytes_make_the_reader_raise_anything_but_a_problem(data: bytes) -> None:
    with contextlib.suppress(Problem):
        jws.read(data)


@given(
    st.fixed_dictionaries(
        {
            "protected": st.text(max_size=60) | st.binary(max_size=80).map(b64),
            "payload": st.text(max_size=20) | st.binary(max_size=20).map(b64),
            "signature": st.text(max_size=20) | st.binary(max_size=20).map(b64),
        }
    )
)
def test_no_members_make_the_reader_raise_anything_but_a_problem(message: dict[str, str]) -> None:
    with contextlib.suppress(Problem):
        jws.read(json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass"))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(["alg", "url", "nonce", "kid", "jwk", "crit", "b64", "x"]),
        _json | st.sampled_from(["ES256", "EdDSA"]),
    )
)
def test_no_protected_header_makes_the_reader_raise_anything_but_a_problem(given: dict[str, Any]) -> None:
    body = {"protected": b64(json.dumps(given).encode()), "payload": "", "signature": ""}
    with contextlib.suppress(Problem):
        request = jws.read(json.dumps(body).encode())
        if request.jwk is not None:
            account_key(request.jwk)


@given(
    st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y", "n", "e", "d"]),
        st.sampled_from(["EC", "RSA", "OKP", "P-256", "Ed25519", "AQAB", "", "AA=="])
        | st.binary(max_size=70).map(b64)
        | _json,
    )
)
def test_no_jwk_makes_the_reader_raise_anything_but_a_problem(given: dict[str, Any]) -> None:
    with contextlib.suppress(Problem):
        account_key(json.dumps(given))


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"protected":', b'{"header":['])
def test_deep_nesting_is_malformed(opening: bytes) -> None:
    assert refused(opening * 50_000).type == "malformed"


def test_invalid_utf8_is_malformed() -> None:
    assert refused(b'{"protected":"\xff\xfe","payload":"","signature":""}').type == "malformed"
    inner = b64(b'{"alg":"ES256","url":"\xff","kid":"x"}')
    assert refused(encoded({"protected": inner, "payload": "", "signature": ""})).type == "malformed"


@given(st.binary(max_size=100))
def test_base64url_round_trips(data: bytes) -> None:
    assert base64url.decode(base64url.encode(data)) == data
    assert base64url.decode_canonical(b64(data)) == data


@given(st.text(max_size=20))
def test_base64url_raises_value_errors_only(text: str) -> None:
    with contextlib.suppress(ValueError):
        base64url.decode(text)


@pytest.mark.parametrize("text", ["AA==", "AA=", "A", "A+", "A/", "AA\n", " AA", "A\0", "é"])
def test_base64url_takes_no_padding_and_nothing_outside_its_alphabet(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - binascii.Error and UnicodeError are both meant
        base64url.decode(text)


def test_canonical_base64url_has_one_text_for_its_octets() -> None:
    assert base64url.decode("AB") == b"\0"
    with pytest.raises(ValueError, match="canonical"):
        base64url.decode_canonical("AB")
