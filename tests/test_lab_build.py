"""What a plan becomes as messages to the kernel, before there is a kernel to take them."""

from __future__ import annotations

import pytest

from testbed.lab import namespaces, sysctls
from testbed.lab.netlink import Request, attribute, attributes, nested, u32
from testbed.lab.netlink_qdisc import qdisc_htb, qdisc_netem
from testbed.lab.netlink_route import End, mac_of, veth
from testbed.plan.plan import Node, Subscriber


def test_a_mac_is_fixed_by_its_names_and_local_and_unicast():
    assert mac_of("alice", "eth0") == mac_of("alice", "eth0") != mac_of("alice", "eth1")
    assert all(mac_of("node", str(number))[0] & 3 == 2 for number in range(100))


def test_attributes_come_back_as_they_went_in():
    data = u32(1, 7) + nested(2, attribute(3, b"odd")) + attribute(4, b"")

    found = attributes(data)

    assert found[1] == b"\7\0\0\0" and attributes(found[2]) == {3: b"odd"} and found[4] == b""


@pytest.mark.parametrize("name", ["a-name-of-16-char", "", "with/slash", "with space"])
def test_a_name_the_kernel_cannot_hold_is_refused_with_the_link(name):
    ends = [End(0, 100, each, b"\2\0\0\0\0\1") for each in ("fine", name)]

    with pytest.raises(ValueError, match=r"link cable: '.*' cannot be an interface name; use 1 to 15 bytes"):
        veth(*ends, 1500, "link cable")


def test_netem_is_encoded_as_tc_does():
    # strace of `tc qdisc add dev eth0 parent 1:1 handle 2: netem limit 1000 delay 20ms 1ms loss 1%`
    tc = bytes.fromhex("b4c40400e8030000295c8f02000000000000000000093d00".ljust(48, "0"))[:24]

    request = qdisc_netem(100, 20_000_000, 1_000_000, 0.01, "x", limit_packets=1000, parent=0x10001)

    assert attributes(request.body[20:])[2][:16] == tc[:16]


def test_a_loss_outside_0_to_1_and_a_rate_of_nothing_are_refused():
    with pytest.raises(ValueError, match="link x: loss ratio 1.5 is outside 0..1"):
        qdisc_netem(100, 0, 0, 1.5, "link x", limit_packets=1)
    with pytest.raises(ValueError, match="link x: a rate of 0 bit/s"):
        qdisc_htb(100, 0, "link x")


def test_a_change_in_place_creates_nothing():
    added = qdisc_netem(100, 1, 0, 0, "x", limit_packets=1)
    changed = qdisc_netem(100, 1, 0, 0, "x", limit_packets=1, change=True)

    assert isinstance(added, Request) and added.flags & 0x400 and not changed.flags & 0x700


def test_a_shared_address_bounds_the_hosts_ports():
    node = Node("coder", "subscriber", 1, forwards=False)
    line = Subscriber(
        "coder", "coder", "freelancer", "isp", "nat", "10.0.0.1", None, port_first=1024, port_last=2047
    )

    assert sysctls.node_settings(node, line)["ipv4/ip_local_port_range"] == "1024 2047"
    assert "ipv4/ip_local_port_range" not in sysctls.node_settings(node, None)


def test_nothing_is_built_on_the_host(monkeypatch):
    monkeypatch.setattr(
        namespaces, "_FIRST_PID_NAMESPACE", str(namespaces.Path("/proc/self/ns/pid").readlink())
    )

    with pytest.raises(PermissionError, match="inside a world only"):
        namespaces.require_world()
