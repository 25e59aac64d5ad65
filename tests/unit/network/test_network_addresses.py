"""Which address is whose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yuntai.network import addresses, names


def test_a_subnets_addresses() -> None:
    assert addresses.gateway("10.1.1.0/24") == "10.1.1.1"
    assert addresses.service("10.1.1.0/24") == "10.1.1.252"
    usable = list(addresses.usable("10.1.1.0/24"))
    assert (usable[0], usable[-1], len(usable)) == ("10.1.1.2", "10.1.1.251", 250)


def test_the_smallest_subnet_still_has_room_for_two_guests() -> None:
    assert list(addresses.usable("10.0.0.8/29")) == ["10.0.0.10", "10.0.0.11"]
    assert addresses.service("10.0.0.8/29") == "10.0.0.12"


@pytest.mark.parametrize("cidr", ["10.0.0.0/30", "10.0.0.1/24", "fd00::/64", "ten", ""])
def test_a_network_that_cannot_be_used_is_refused_with_a_way_out(cidr: str) -> None:
    with pytest.raises(addresses.AddressError, match=r"use up to /29|write it as"):
        addresses.gateway(cidr)


@given(st.integers(16, 29), st.integers(0, 2**16 - 1))
def test_is_usable_agrees_with_the_list(prefix: int, offset: int) -> None:
    cidr = f"10.9.0.0/{prefix}"
    address = f"10.9.{offset >> 8}.{offset & 255}"
    inside = offset < 2 ** (32 - prefix)
    expected = inside and 2 <= offset < 2 ** (32 - prefix) - 4
    assert addresses.is_usable(cidr, address) == expected
    if prefix >= 26:
        assert (address in set(addresses.usable(cidr))) == expected


def test_the_routers_pool_leaves_out_the_hosts() -> None:
    pool = list(addresses.external_pool())
    assert (pool[0], pool[-1]) == ("100.64.0.16", "100.64.0.254")


@given(st.integers(0, 2**24 - 1))
def test_guests_of_one_vpc_never_share_a_mac(low: int) -> None:
    address = f"10.{low >> 16}.{low >> 8 & 255}.{low & 255}"
    mac = addresses.guest_mac(address)
    assert mac.startswith("00:16:3e:")
    assert int(mac.replace(":", "")[6:], 16) == low


def test_a_systems_mac_is_local_and_unicast() -> None:
    assert int(addresses.system_mac("vsw-1/router")[:2], 16) & 3 == 2
    assert addresses.system_mac("a") != addresses.system_mac("b")


def test_interface_names_fit_the_kernel() -> None:
    vswitch = "vsw-0123456789abcdef"
    for name in (names.host_interface(vswitch), names.passing_interface(vswitch)):
        assert len(name) <= names.INTERFACE_NAME_MAX
    assert names.netns_path(vswitch).name == f"vsw-{vswitch}"
