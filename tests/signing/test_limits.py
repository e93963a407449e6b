"""What a signer does not do although a server asks."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certloom.clock import ManualClock
from certloom.pki import keys
from certloom.pki.identifiers import Identifier, IdentifierType, parse_dns, parse_ip
from certloom.signing import SigningRefused, SigningUnavailable
from certloom.signing.limits import FileLimits, Limit, LimitsError, LimitsFile, parse, render
from certloom.signing.service import Service
from tests.conftest import run
from tests.signing.making import DAY, SPKI, ca_template, leaf, root, service


def limited(tmp_path: Path, clock: ManualClock, text: str) -> tuple[Service, FileLimits]:
    path = tmp_path / "limits.toml"
    path.write_text(text)
    limits = FileLimits(path, clock)
    return service(clock, limits), limits


def test_without_a_permit_no_old_key_signs_a_ca_certificate(tmp_path: Path, clock: ManualClock) -> None:
    async def scenario() -> None:
        signing, _ = limited(tmp_path, clock, "")
        _, der = await root(signing, clock.now())
        # A hierarchy is made in one go, by keys that nobody trusts yet.
        await signing.ca_certificate("root", der, ca_template(SPKI, clock.now()))
        clock.advance(600)
        with pytest.raises(SigningRefused) as caught:
            await signing.ca_certificate("root", der, ca_template(SPKI, clock.now()))
        assert caught.value.code == "signer-limit"
        assert "certloom signer permit root" in str(caught.value)
        # End entities and new roots are another matter.
        await signing.certificate("root", der, leaf(clock.now()))
        await root(signing, clock.now(), "new")

        until = clock.now() + 60
        limit = Limit(ca_certificates_until=datetime.fromtimestamp(until, UTC))
        (tmp_path / "limits.toml").write_text(render(LimitsFile(authority={"root": limit})))
        clock.advance(2)
        await signing.ca_certificate("root", der, ca_template(SPKI, clock.now()))
        clock.advance(60)
        with pytest.raises(SigningRefused):
            await signing.ca_certificate("root", der, ca_template(SPKI, clock.now()))

    run(scenario())


def test_a_key_that_was_brought_in_is_never_young(tmp_path: Path, clock: ManualClock) -> None:
    """Or a server could present an old key as a new one, and have it certify."""

    async def scenario() -> None:
        signing, _ = limited(tmp_path, clock, "")
        private = keys.generate("P-256")
        made = await signing.adopt("old", "ca", "old", keys.private_to_der(private))
        der = await signing.ca_certificate("old", None, ca_template(made.spki, clock.now()))
        with pytest.raises(SigningRefused) as caught:
            await signing.ca_certificate("old", der, ca_template(SPKI, clock.now()))
        assert caught.value.code == "signer-limit"
        with pytest.raises(SigningRefused) as caught:
            await signing.attach("token", "ca", "wide", "pkcs11:token=hsm;object=root")
        assert caught.value.code == "signer-limit"

    run(scenario())


def test_names_usages_and_lifetimes_are_bounded_by_authority(tmp_path: Path, clock: ManualClock) -> None:
    text = """
        [default]
        longest_days = 90
        [authority.root]
        names = ["example.com", "10.0.0.0/8", "2001:db8::/32"]
        usages = ["serverAuth"]
    """

    async def scenario() -> None:
        signing, _ = limited(tmp_path, clock, text)
        now = clock.now()
        _, der = await root(signing, now)
        _, other = await root(signing, now, "other")
        good = [
            leaf(now),
            leaf(now, identifiers=(parse_dns("*.example.com", wildcard=True),)),
            leaf(now, identifiers=(parse_ip("10.1.2.3"), parse_ip("2001:db8::1"))),
            leaf(now, identifiers=(Identifier(IdentifierType.EMAIL, "a@mail.example.com"),)),
            leaf(now, identifiers=(Identifier(IdentifierType.URI, "https://u@www.example.com:8443/x"),)),
            leaf(now, not_after=now - 60 + 90 * DAY - 1),
        ]
        bad = [
            leaf(now, identifiers=(parse_dns("www.example.com"), parse_dns("badexample.com"))),
            leaf(now, identifiers=(parse_dns("example.com.evil.test"),)),
            leaf(now, identifiers=(parse_ip("11.0.0.1"),)),
            leaf(now, identifiers=(Identifier(IdentifierType.EMAIL, "a@example.com.evil.test"),)),
            leaf(now, identifiers=(Identifier(IdentifierType.URI, "https://example.com@evil.test/"),)),
            leaf(now, identifiers=(Identifier(IdentifierType.URI, "urn:example.com"),)),
            leaf(now, not_after=now - 60 + 90 * DAY),
            leaf(now, extended_key_usage=("1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.3")),
        ]
        for template in good:
            await signing.certificate("root", der, template)
        for template in bad:
            with pytest.raises(SigningRefused) as caught:
                await signing.certificate("root", der, template)
            assert caught.value.code == "signer-limit"
        # What one authority's table says is not the others' business; the default is.
        await signing.certificate("other", other, bad[0])
        with pytest.raises(SigningRefused):
            await signing.certificate("other", other, bad[-2])

    run(scenario())


def test_a_responder_is_certified_only_for_a_key_that_is_here(tmp_path: Path, clock: ManualClock) -> None:
    """Otherwise a server that was taken over could have itself made a responder, and outlive its being
    found."""

    async def scenario() -> None:
        signing, limits = limited(tmp_path, clock, "")
        now = clock.now()
        _, der = await root(signing, now)
        usage = {"extended_key_usage": ("1.3.6.1.5.5.7.3.9",)}
        with pytest.raises(SigningRefused) as caught:
            await signing.certificate("root", der, leaf(now, **usage))
        assert caught.value.code == "signer-limit"
        made = await signing.generate("ocsp", "ocsp", "root", "P-256")
        limits.ocsp_keys.add(("root", made.spki))
        await signing.certificate("root", der, leaf(now, spki=made.spki, **usage))

    run(scenario())


def test_the_rate_is_bounded_and_recovers(tmp_path: Path, clock: ManualClock) -> None:
    async def scenario() -> None:
        signing, _ = limited(tmp_path, clock, "[default]\ncertificates_per_minute = 6\n")
        _, der = await root(signing, clock.now())
        for _ in range(6):
            await signing.certificate("root", der, leaf(clock.now()))
        with pytest.raises(SigningUnavailable) as caught:
            await signing.certificate("root", der, leaf(clock.now()))
        assert caught.value.code == "signer-rate"
        clock.advance(10)
        await signing.certificate("root", der, leaf(clock.now()))
        with pytest.raises(SigningUnavailable):
            await signing.certificate("root", der, leaf(clock.now()))

    run(scenario())


def test_a_limits_file_that_cannot_be_read_stops_signing(tmp_path: Path, clock: ManualClock) -> None:
    async def scenario() -> None:
        signing, _ = limited(tmp_path, clock, "")
        _, der = await root(signing, clock.now())
        (tmp_path / "limits.toml").write_text("names = [")
        clock.advance(2)
        with pytest.raises(SigningUnavailable) as caught:
            await signing.certificate("root", der, leaf(clock.now()))
        assert "limits.toml" in str(caught.value)
        os.unlink(tmp_path / "limits.toml")
        clock.advance(2)
        with pytest.raises(SigningUnavailable):
            await signing.certificate("root", der, leaf(clock.now()))
        (tmp_path / "limits.toml").write_text("")
        clock.advance(2)
        await signing.certificate("root", der, leaf(clock.now()))

    run(scenario())


@pytest.mark.parametrize(
    "text",
    [
        "[default]\nlongest_days = 0",
        "[default]\nca_certificates = 'sometimes'",
        "[default]\nnames = ['*.example.com']",
        "[default]\nnames = ['Example.com']",
        "[default]\nnames = ['10.0.0.1/8']",
        "[default]\nunknown = 1",
        "[authority.root]\nca_certificates_until = 2030-01-01T00:00:00",
        "not toml",
    ],
)
def test_what_makes_no_sense_in_a_limits_file_is_refused(text: str) -> None:
    with pytest.raises(LimitsError):
        parse(text)


@given(
    st.builds(
        Limit,
        ca_certificates=st.sampled_from([None, "never", "always"]),
        longest_days=st.none() | st.integers(1, 10_000),
        names=st.none() | st.lists(st.sampled_from(["*", "example.com", "10.0.0.0/8"])).map(tuple),
        usages=st.none() | st.lists(st.sampled_from(["*", "serverAuth", "1.2.3"])).map(tuple),
        certificates_per_minute=st.none() | st.integers(0, 10_000),
    )
)
def test_what_is_written_is_read_again(limit: Limit) -> None:
    limits = LimitsFile(default=limit, authority={"one": limit, "two-2": Limit(longest_days=1)})
    found = parse(render(limits))
    assert found.default == limits.default
    assert found.authority.get("one", Limit()) == limit
