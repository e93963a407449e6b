from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certloom.outbound.guard import AddressDenied, AddressGuard


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "0.1.2.3",
        "169.254.169.254",
        "224.0.0.1",
        "239.255.255.255",
        "255.255.255.255",
        "240.0.0.1",
        "::",
        "::1",
        "fe80::1",
        "febf::1",
        "ff02::1",
        "100.100.100.200",
        "fd00:ec2::254",
    ],
)
def test_what_belongs_to_this_host_or_link_is_denied(address: str) -> None:
    with pytest.raises(AddressDenied):
        AddressGuard().check(address)


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "172.16.5.4", "192.168.1.1", "100.64.0.1", "fd12::1", "8.8.8.8", "2001:db8::1"]
)
def test_private_and_public_addresses_are_allowed(address: str) -> None:
    AddressGuard().check(address)


@pytest.mark.parametrize(
    "address",
    [
        "::ffff:127.0.0.1",  # mapped
        "::ffff:0:127.0.0.1",  # translated
        "::127.0.0.1",  # compatible
        "2002:7f00:1::",  # 6to4
        "2002:a9fe:a9fe::1",
        "64:ff9b::127.0.0.1",  # NAT64
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::127.0.0.1",
        "64:ff9b:1:7f00:0:100::",  # RFC 6052 section 2.2, /48
        "64:ff9b:1:007f:0:1::",  # /56
        "64:ff9b:1:0:7f:0:100:0",  # /64
        "2001:0:7f00:1::",  # Teredo server
        "2001:0:808:808:0:0:80ff:fffe",  # Teredo client 127.0.0.1, obscured
        "2001:db8::5efe:127.0.0.1",  # ISATAP
        "2001:db8::200:5efe:127.0.0.1",
    ],
)
def test_a_denied_ipv4_address_inside_an_ipv6_address_is_denied(address: str) -> None:
    with pytest.raises(AddressDenied):
        AddressGuard().check(address)


@pytest.mark.parametrize(
    "address", ["::ffff:10.0.0.1", "64:ff9b::8.8.8.8", "64:ff9b:1::10.0.0.1", "2002:a00:1::"]
)
def test_an_allowed_ipv4_address_inside_an_ipv6_address_is_allowed(address: str) -> None:
    AddressGuard().check(address)


def test_allow_overrides_the_default_denials_in_every_form() -> None:
    guard = AddressGuard(allow=["127.0.0.0/8"])
    assert guard.permits("127.0.0.1")
    assert guard.permits("::ffff:127.0.0.1")
    assert not guard.permits("::1")
    assert not guard.permits("169.254.169.254")


def test_deny_adds_to_the_default_denials_in_every_form() -> None:
    guard = AddressGuard(deny=["10.0.0.0/8", "2001:db8::/32"])
    assert not guard.permits("10.1.2.3")
    assert not guard.permits("::ffff:10.1.2.3")
    assert not guard.permits("2001:db8::7")
    assert not guard.permits("127.0.0.1")
    assert guard.permits("192.168.0.1")


def test_the_most_specific_configured_range_decides_and_deny_wins_a_tie() -> None:
    guard = AddressGuard(
        allow=["10.1.0.0/16", "192.168.0.0/24"], deny=["10.0.0.0/8", "10.1.2.3", "192.168.0.0/24"]
    )
    assert guard.permits("10.1.0.1")
    assert not guard.permits("10.2.0.1")
    assert not guard.permits("10.1.2.3")
    assert not guard.permits("192.168.0.1")


@pytest.mark.parametrize(
    "text", ["fe80::1%eth0", "2001:db8::1%1", "localhost", "", "127.1", "0x7f000001", "2130706433"]
)
def test_only_plain_ip_literals_pass(text: str) -> None:
    with pytest.raises(AddressDenied):
        AddressGuard(allow=["0.0.0.0/0", "::/0"]).check(text)


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "example.com", ""])
def test_a_bad_range_is_refused_at_once(text: str) -> None:
    with pytest.raises(ValueError, match="not an address range"):
        AddressGuard(allow=[text])


@given(st.ip_addresses(v=4))
def test_a_mapped_address_is_judged_like_the_address_itself(address: ipaddress.IPv4Address) -> None:
    guard = AddressGuard(allow=["127.0.0.0/9"], deny=["8.0.0.0/7"])
    assert (
        guard.permits(str(address))
        == guard.permits(f"::ffff:{address}")
        == guard.permits(f"64:ff9b::{address}")
    )
