from __future__ import annotations

import ipaddress

import pytest

from headgate.api.peers import address, comes_from

PROXIES = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "told", "client"),
    [
        ("192.0.2.1", [b"203.0.113.9"], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [b"203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", [b"198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", [b"198.51.100.1", b"203.0.113.9 , 10.0.0.7"], "203.0.113.9"),
        ("10.0.0.1", [b"10.0.0.9,10.0.0.8"], "10.0.0.9"),
        ("fd00::1", [b"2001:DB8::0007"], "2001:db8::7"),
        ("10.0.0.1", [b"203.0.113.9:51234"], "203.0.113.9"),
        ("10.0.0.1", [b"203.0.113.9, [2001:db8::7]:51234"], "2001:db8::7"),
        ("10.0.0.1", [b"[2001:db8::7]"], "2001:db8::7"),
        ("10.0.0.1", [b"["], "10.0.0.1"),
        ("10.0.0.1", [b"unknown"], "10.0.0.1"),
        ("10.0.0.1", [b"203.0.113.9, \xff\n{}"], "10.0.0.1"),
        ("10.0.0.1", [b""], "10.0.0.1"),
        ("10.0.0.1", [b"203.0.113.9" + b",10.0.0.2" * 10_000], "10.0.0.2"),
    ],
)
def test_client_is_the_first_from_the_right_that_is_no_trusted_proxy(peer: str, told: list[bytes], client: str) -> None:
    assert address((peer, 1), [(b"x-forwarded-for", value) for value in told], PROXIES) == client


def test_address_of_ipv4_on_a_socket_of_ipv6_is_one_of_ipv4() -> None:
    """With `HOST=::` no proxy of IPv4 was ever trusted."""
    assert comes_from(("::ffff:10.0.0.1", 1), PROXIES)
    assert not comes_from(("::ffff:192.0.2.1", 1), PROXIES)
    assert address(("::ffff:192.0.2.1", 1), [], ()) == "192.0.2.1"
    assert address(("::ffff:192.0.2.1", 1), [], PROXIES) == "192.0.2.1"


def test_connection_without_an_address_has_none() -> None:
    assert address(None, [], PROXIES) == ""
    assert not comes_from(None, PROXIES)
