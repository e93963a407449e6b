"""Certificates as text: openssl reads what is written, and RFC 7468's strict form is kept."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from certloom.pki.certificates import build_certificate
from certloom.pki.pem import to_pem
from tests.pki import making


def test_a_certificate_is_written_as_cryptography_writes_it() -> None:
    hierarchy = making.hierarchy()
    der = build_certificate(making.template(), hierarchy.issuer, hierarchy.issuer_key)
    assert to_pem(der) == x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


@given(st.binary(min_size=1, max_size=500))
def test_lines_have_64_characters_but_for_the_last(octets: bytes) -> None:
    begin, *lines, end, nothing = to_pem(octets, "X509 CRL").decode().split("\n")
    assert (begin, end, nothing) == ("-----BEGIN X509 CRL-----", "-----END X509 CRL-----", "")
    assert all(len(line) == 64 for line in lines[:-1])
    assert 0 < len(lines[-1]) <= 64
