"""decide() as a table: what is recognised, what passes, and why."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files

import pytest

from enforcer.allowlist import Allowlist, Entry
from enforcer.cells import Index
from enforcer.decide import (
    CLEAR,
    EXEMPT,
    FAIL_OPEN,
    OBSERVED,
    POLICED,
    REASONS,
    REVOKED,
    Flow,
    decide,
)
from enforcer.packet import parse
from enforcer.policy import Exemption, NamedEndpoint, parse_policy
from tests import enforcer_packets as make

STRICT = parse_policy((files("enforcer") / "policies" / "registered-pairs.policy.yaml").read_text())
LINE4, SERVER4, OTHER4 = "203.0.113.7", "198.51.100.9", "198.51.100.200"
LINE6, SERVER6 = "2001:db8:7::1", "2001:db8:9::9"
NOW_NS = 1_700_000_000_000_000_000


def entry(number=7, **changes):
    values = {
        "registration": number,
        "registrant": "softhouse",
        "subscriber_prefixes": (f"{LINE4}/32", "2001:db8:7::/64"),
        "endpoint_prefixes": (f"{SERVER4}/32", f"{SERVER6}/128"),
    }
    return Entry(**(values | changes))


def listing(*entries):
    return Allowlist(1, {each.registration: each for each in entries})


NOBODY = listing()


def verdict(data, flow=Flow(), allowed=NOBODY, policy=STRICT, now_ns=NOW_NS, fallback="keep"):  # noqa: B008
    straight = decide(parse(data), flow, allowed, policy, now_ns, fallback)
    indexed = decide(
        parse(data), flow, Index(policy.match, allowed.entries.values()), policy, now_ns, fallback
    )
    assert straight == indexed
    return straight


ENDS = {4: (LINE4, SERVER4), 6: (LINE6, SERVER6)}

HANDSHAKES = {
    "wireguard": ("udp", 51820, make.WIREGUARD_INITIATION, "wireguard"),
    "openvpn": ("udp", 1194, make.OPENVPN_RESET, "openvpn-udp"),
    "openvpn-tls-auth": ("udp", 1194, make.OPENVPN_RESET_TLS_AUTH, "openvpn-udp"),
    "openvpn-tls-crypt": ("udp", 1194, make.OPENVPN_RESET_TLS_CRYPT, "openvpn-udp"),
    "openvpn-tls-crypt-v2": ("udp", 1194, make.OPENVPN_RESET_TLS_CRYPT_V2, "openvpn-udp"),
    "openvpn-tcp": ("tcp", 1194, make.behind_length(make.OPENVPN_RESET), "openvpn-tcp"),
    "openvpn-tcp-tls-auth": ("tcp", 1194, make.behind_length(make.OPENVPN_RESET_TLS_AUTH), "openvpn-tcp"),
    "openvpn-tcp-tls-crypt-v2": (
        "tcp",
        1194,
        make.behind_length(make.OPENVPN_RESET_TLS_CRYPT_V2),
        "openvpn-tcp",
    ),
    "ikev2": ("udp", 500, make.IKE_SA_INIT, "ikev2"),
    "ikev1": ("udp", 500, make.IKEV1_MAIN_MODE, "ikev2"),
    "ikev2-4500": ("udp", 4500, b"\0\0\0\0" + make.IKE_SA_INIT, "ikev2"),
    "esp-in-udp": ("udp", 4500, b"\xa5" * 80, "ikev2"),
    "l2tp": ("udp", 1701, make.L2TP_SCCRQ, "l2tp"),
    "pptp": ("tcp", 1723, make.PPTP_REQUEST, "pptp"),
}


def first_packet(transport, port, payload, version=4, src_port=40000):
    src, dst = ENDS[version]
    if transport == "udp":
        return make.udp(src, dst, src_port, port, payload)
    return make.tcp(src, dst, src_port, port, make.ACK | make.PSH, payload, acknowledge=1)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", HANDSHAKES)
def test_a_handshake_is_recognised_on_its_port_and_on_another(name, version):
    transport, port, payload, protocol = HANDSHAKES[name]
    on_its_port = verdict(first_packet(transport, port, payload, version))
    elsewhere = verdict(first_packet(transport, 8443, payload, version))
    assert (on_its_port.action, on_its_port.reason, on_its_port.protocol) == (
        "drop",
        "unregistered",
        protocol,
    )
    if name == "esp-in-udp":  # ESP has no header that says so
        assert elsewhere.reason == "not-vpn"
    else:
        assert (elsewhere.action, elsewhere.protocol) == ("drop", protocol)

    registered = verdict(first_packet(transport, port, payload, version), allowed=listing(entry()))
    assert (registered.action, registered.reason, registered.registration) == ("pass", "registered", 7)
    assert registered.mark == 7


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("protocol", "payload", "name"),
    [(50, b"\xa5" * 60, "esp"), (115, b"\xa5" * 30, "l2tp"), (47, make.GRE_PPTP, "pptp")],
)
def test_ip_protocols_are_recognised_in_both_directions(protocol, payload, name, version):
    src, dst = ENDS[version]
    for ends in ((src, dst), (dst, src)):
        data = make.ip(*ends, protocol, payload)
        assert verdict(data).protocol == name
        assert verdict(data).action == "drop"
        assert verdict(data, allowed=listing(entry(endpoint_ports=(51820,)))).reason == "registered"


def test_an_authentication_header_is_found_in_front_of_anything():
    inside = b"\x11\4" + b"\0" * 22 + make.udp(LINE4, SERVER4, 1, 2, b"x")[20:]
    assert verdict(make.ip(LINE4, SERVER4, 51, inside)).protocol == "ah"
    udp6 = make.udp(LINE6, SERVER6, 40000, 53, b"x")[40:]
    header = b"\0" * 22
    bare = make.ip(LINE6, SERVER6, 51, bytes([17, 4]) + header + udp6)
    after_options = make.ip(
        LINE6, SERVER6, 51, bytes([17, 4]) + header + udp6, extensions=((0, b"\1\4\0\0\0\0"),)
    )
    assert verdict(bare).protocol == "ah"
    assert verdict(after_options).protocol == "ah"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", make.LOOK_ALIKES)
def test_look_alikes_pass(name, version):
    transport, port, payload = make.LOOK_ALIKES[name]
    assert verdict(first_packet(transport, port, payload, version)).reason == "not-vpn"


def test_plain_gre_passes_and_pptp_gre_does_not():
    assert verdict(make.ip(LINE4, SERVER4, 47, make.GRE_PLAIN)).reason == "not-vpn"
    assert verdict(make.ip(LINE4, SERVER4, 47, make.GRE_PPTP)).reason == "unregistered"


def test_bytes_in_the_middle_of_a_flow_are_never_looked_at():
    data = first_packet("udp", 9999, make.WIREGUARD_INITIATION)
    assert verdict(data, Flow(CLEAR)).reason == "not-vpn"
    assert verdict(data).reason == "unregistered"  # control: as a first packet it is


def test_an_answer_of_a_service_to_a_client_on_a_vpn_port_passes():
    assert verdict(make.udp(SERVER4, LINE4, 53, 51820, b"\x01\0\0\0" + make.DNS_QUESTION)).reason == "not-vpn"
    assert verdict(make.udp(LINE4, SERVER4, 51820, 53, b"\x01\0\0\0" + make.DNS_QUESTION)).reason == "not-vpn"
    assert verdict(make.udp(LINE4, SERVER4, 53000, 51820, b"anything")).reason == "unregistered"


def test_a_server_is_recognised_by_port_and_header_together():
    for port, data, protocol in (
        (51820, make.WIREGUARD_RESPONSE, "wireguard"),
        (51820, make.WIREGUARD_DATA, "wireguard"),
        (1194, make.OPENVPN_SERVER_RESET, "openvpn-udp"),
        (1194, make.OPENVPN_DATA, "openvpn-udp"),
    ):
        assert verdict(make.udp(SERVER4, LINE4, port, 40000, data)).protocol == protocol
        assert verdict(make.udp(SERVER4, LINE4, port, 40000, b"\x80" + data[1:])).reason == "not-vpn"
        registered = verdict(make.udp(SERVER4, LINE4, port, 40000, data), allowed=listing(entry()))
        assert registered.reason == "registered"
    syn_ack = make.tcp(SERVER4, LINE4, 1194, 40000, make.SYN | make.ACK)
    assert verdict(syn_ack).protocol == "openvpn-tcp"
    assert verdict(make.tcp(SERVER4, LINE4, 1194, 40000, make.ACK)).reason == "not-yet"


def test_tcp_is_judged_at_its_first_payload():
    opening = make.tcp(LINE4, SERVER4, 40000, 8443, make.SYN)
    assert (verdict(opening).reason, verdict(opening).mark) == ("not-yet", 0)
    hello = first_packet("tcp", *make.LOOK_ALIKES["tls-client-hello"][1:])
    assert (verdict(hello).reason, verdict(hello).mark) == ("not-vpn", CLEAR)
    reset = first_packet("tcp", 8443, make.behind_length(make.OPENVPN_RESET))
    assert verdict(reset).protocol == "openvpn-tcp"


@pytest.mark.parametrize(
    ("changes", "covered"),
    [
        ({}, True),
        ({"endpoint_ports": (51820,)}, True),
        ({"endpoint_ports": (51821,)}, False),
        ({"protocols": ("wireguard",)}, True),
        ({"protocols": ("openvpn-udp", "ikev2")}, False),
        ({"subscriber_prefixes": ("203.0.113.0/24",)}, True),
        ({"subscriber_prefixes": ("203.0.112.0/24",)}, False),
        ({"endpoint_prefixes": ("0.0.0.0/0",)}, True),
        ({"endpoint_prefixes": ("::/0",)}, False),
        ({"valid_from_ns": NOW_NS + 1}, False),
        ({"valid_until_ns": NOW_NS}, False),
        ({"valid_until_ns": NOW_NS + 1}, True),
    ],
)
def test_what_an_entry_covers(changes, covered):
    data = first_packet("udp", 51820, make.WIREGUARD_INITIATION)
    assert verdict(data, allowed=listing(entry(**changes))).passes is covered


def test_the_match_key_is_the_policys():
    other = make.udp(LINE4, OTHER4, 40000, 51820, make.WIREGUARD_INITIATION)
    elsewhere = make.udp("203.0.113.99", SERVER4, 40000, 51820, make.WIREGUARD_INITIATION)
    allowed = listing(entry())
    for match, passes_other, passes_elsewhere in (
        ("subscriber+endpoint", False, False),
        ("subscriber", True, False),
        ("endpoint", False, True),
    ):
        policy = replace(STRICT, match=match)
        assert verdict(other, allowed=allowed, policy=policy).passes is passes_other
        assert verdict(elsewhere, allowed=allowed, policy=policy).passes is passes_elsewhere


def test_a_registration_for_ikev2_covers_the_esp_it_sets_up():
    allowed = listing(entry(protocols=("ikev2",), endpoint_ports=(500, 4500)))
    assert verdict(make.ip(LINE4, SERVER4, 50, b"\xa5" * 60), allowed=allowed).reason == "registered"
    assert verdict(
        make.ip(LINE4, SERVER4, 50, b"\xa5" * 60), allowed=listing(entry(protocols=("l2tp",)))
    ).reason == ("unregistered")


def test_the_most_specific_registration_is_named_then_the_oldest():
    data = first_packet("udp", 51820, make.WIREGUARD_INITIATION)
    wide = entry(3, subscriber_prefixes=("203.0.113.0/24",))
    exact, later = entry(9), entry(11)
    assert verdict(data, allowed=listing(wide, later, exact)).registration == 9
    assert verdict(data, allowed=listing(wide)).registration == 3


def test_a_revoked_flow_stops_wherever_it_is_and_may_be_registered_anew():
    mid_flow = first_packet("udp", 7777, make.WIREGUARD_DATA)
    assert verdict(mid_flow, Flow(7), listing(entry())).reason == "registered"
    stopped = verdict(mid_flow, Flow(7), NOBODY)
    assert (stopped.action, stopped.reason, stopped.registration) == ("drop", "revoked", 7)
    assert verdict(mid_flow, Flow(REVOKED), NOBODY).reason == "revoked"
    handshake = first_packet("udp", 7777, make.WIREGUARD_INITIATION)
    again = verdict(handshake, Flow(7), listing(entry(8)))
    assert (again.reason, again.mark) == ("registered", 8)


def test_let_finish_ends_when_its_time_is_over():
    policy = replace(STRICT, live_flows="let-finish", let_finish_ns=30)
    data = first_packet("udp", 51820, make.WIREGUARD_DATA)
    assert verdict(data, Flow(7, ended_ns=NOW_NS - 29), policy=policy).reason == "finishing"
    assert verdict(data, Flow(7, ended_ns=NOW_NS - 30), policy=policy).reason == "revoked"


@pytest.mark.parametrize(
    ("changes", "action", "mark"),
    [
        ({"action": "drop"}, "drop", 0),
        ({"action": "reject"}, "reject", 0),
        ({"action": "police", "police_bps": 64000}, "police", POLICED),
        ({"action": "observe"}, "observe", OBSERVED),
        ({"mode": "observe"}, "observe", OBSERVED),
    ],
)
def test_the_action_is_the_policys(changes, action, mark):
    data = first_packet("udp", 51820, make.WIREGUARD_INITIATION)
    found = verdict(data, policy=replace(STRICT, **changes))
    assert (found.action, found.mark) == (action, mark)
    mid_flow = verdict(
        first_packet("udp", 7777, make.WIREGUARD_DATA), Flow(mark), policy=replace(STRICT, **changes)
    )
    assert mid_flow.action == (action if mark else "pass")


def test_exemptions_pass_and_are_remembered():
    policy = replace(
        STRICT, exempt=(Exemption("epdg", "", ("ikev2", "esp"), (f"{SERVER4}/32",), (500, 4500), ()),)
    )
    ike = first_packet("udp", 500, make.IKE_SA_INIT)
    assert (verdict(ike, policy=policy).reason, verdict(ike, policy=policy).mark) == ("exempt", EXEMPT)
    assert verdict(make.ip(SERVER4, LINE4, 50, b"\xa5" * 40), policy=policy).reason == "exempt"
    assert (
        verdict(first_packet("udp", 51820, make.WIREGUARD_INITIATION), policy=policy).reason == "unregistered"
    )
    assert (
        verdict(make.udp(LINE4, OTHER4, 500, 500, make.IKE_SA_INIT), policy=policy).reason == "unregistered"
    )


def test_a_tls_vpn_is_governed_only_at_its_named_endpoints():
    hello = make.LOOK_ALIKES["tls-client-hello"][2]
    policy = replace(
        STRICT,
        governs=(*STRICT.governs, "openconnect"),
        named_endpoints=(NamedEndpoint("openconnect", (f"{SERVER4}/32",), (443,)),),
    )
    assert verdict(first_packet("tcp", 443, hello), policy=policy).protocol == "openconnect"
    assert (
        verdict(first_packet("tcp", 443, hello), policy=policy, allowed=listing(entry())).reason
        == "registered"
    )
    assert verdict(first_packet("tcp", 443, hello)).reason == "not-vpn"
    elsewhere = make.tcp(LINE4, OTHER4, 40000, 443, make.ACK, hello)
    assert verdict(elsewhere, policy=policy).reason == "not-vpn"


def test_recognition_by_ports_and_by_first_packets_can_be_switched_off():
    on_port = first_packet("udp", 51820, b"anything")
    elsewhere = first_packet("udp", 9999, make.WIREGUARD_INITIATION)
    ports, headers = (
        replace(STRICT, recognise_by=("ports",)),
        replace(STRICT, recognise_by=("first-packets",)),
    )
    assert (verdict(on_port, policy=ports).passes, verdict(elsewhere, policy=ports).passes) == (False, True)
    assert (verdict(on_port, policy=headers).passes, verdict(elsewhere, policy=headers).passes) == (
        True,
        False,
    )


def test_a_policy_governs_only_what_it_names():
    policy = replace(STRICT, governs=("ikev2",))
    assert verdict(first_packet("udp", 51820, make.WIREGUARD_INITIATION), policy=policy).reason == "not-vpn"
    assert verdict(first_packet("udp", 500, make.IKE_SA_INIT), policy=policy).reason == "unregistered"


def test_a_failure_that_allows_lets_unregistered_flows_pass_until_it_ends():
    data = first_packet("udp", 51820, make.WIREGUARD_INITIATION)
    during = verdict(data, fallback="allow")
    assert (during.reason, during.mark) == ("fail-open", FAIL_OPEN)
    assert verdict(data, fallback="allow", allowed=listing(entry())).reason == "registered"
    assert verdict(data, Flow(FAIL_OPEN)).reason == "unregistered"
    assert verdict(data, Flow(FAIL_OPEN), allowed=listing(entry())).mark == 7


def test_a_failure_that_blocks_stops_registered_flows_too_but_nothing_else():
    data = first_packet("udp", 51820, make.WIREGUARD_INITIATION)
    allowed = listing(entry())
    assert verdict(data, allowed=allowed, fallback="block").reason == "fail-closed"
    assert verdict(data, Flow(7), allowed=allowed, fallback="block").reason == "fail-closed"
    web = first_packet("tcp", 443, make.LOOK_ALIKES["tls-client-hello"][2])
    assert verdict(web, fallback="block").reason == "not-vpn"
    assert verdict(data, Flow(EXEMPT), fallback="block").reason == "exempt"


def test_icmp_and_garbage_always_pass():
    assert verdict(make.ip(LINE4, SERVER4, 1, b"\3\4\0\0" + b"\0" * 30), Flow(7)).passes
    assert verdict(b"").passes
    assert verdict(b"\x45\0").passes


def test_later_fragments_pass_with_their_first():
    data = make.ip(LINE4, SERVER4, 17, b"\xa5" * 40, fragment=(10, False))
    assert verdict(data).reason == "fragment"


def test_options_and_extension_headers_hide_nothing():
    options = make.udp(LINE4, SERVER4, 40000, 51820, make.WIREGUARD_INITIATION, options=b"\1\1\1\0")
    extended = make.udp(
        LINE6,
        SERVER6,
        40000,
        9999,
        make.WIREGUARD_INITIATION,
        extensions=((0, b"\1\4\0\0\0\0"), (60, b"\1\4\0\0\0\0")),
    )
    assert verdict(options).protocol == verdict(extended).protocol == "wireguard"


def test_every_reason_has_a_meaning():
    assert all(meaning and "\n" not in meaning for meaning in REASONS.values())
