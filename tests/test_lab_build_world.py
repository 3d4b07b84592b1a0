"""A lab built of a plan is what the plan says, names what it cannot build, and leaves nothing."""

from __future__ import annotations

import dataclasses
import json
import socket
import subprocess
import sys
import time
from ipaddress import ip_interface
from pathlib import Path

import pytest

from testbed.lab import netlink_route
from testbed.lab.build import attach, build
from testbed.lab.capture import capturing
from testbed.lab.netlink import NetlinkError
from testbed.lab.netlink_qdisc import qdisc_bfifo, qdisc_delete, qdisc_htb, qdisc_netem, qdisc_tbf, qdiscs
from testbed.plan.plan import Bridge, Interface, Link, Node
from tests.small_plan import small_plan

pytestmark = pytest.mark.world


@pytest.fixture
def lab(tmp_path):
    with build(small_plan(), tmp_path) as lab:
        yield lab


def reaches(lab, node: str, address: str) -> bool:
    return lab.cmd(node, ["ping", "-c1", "-W1", address]).returncode == 0


def namespaces_seen() -> set[str]:
    return {str(path.readlink()) for path in Path("/proc").glob("[0-9]*/ns/net") if path.exists()}


def open_files() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


# -- as planned


def test_a_host_reaches_its_isp_and_what_hangs_on_it_in_both_families(lab):
    for address in ("10.1.1.1", "fd00:1:1::1", "10.1.9.10", "fd00:1:9::10"):
        assert reaches(lab, "alice", address)
    assert not reaches(lab, "alice", "10.9.0.10")  # control: nobody has routed abroad yet


def test_every_interface_has_its_planned_name_addresses_and_mac(lab):
    for link in lab.plan.links:
        for end in (link.a, link.b):
            with lab.netlink(end.node) as connection:
                states = {state.name: state for state in netlink_route.links(connection)}
                held = netlink_route.addresses(connection)
            state = states[end.name]
            assert state.is_up and state.has_carrier
            assert state.mac == netlink_route.mac_of(end.node, end.name).hex(":")
            assert {str(ip_interface(each)) for each in (*end.ipv4, *end.ipv6)} <= set(held[state.index])


def test_loopbacks_and_static_routes_are_there(lab):
    with lab.netlink("isp1") as connection:
        assert {"10.255.1.1/32", "fd00:ff:1::1/128"} <= set(netlink_route.addresses(connection)[1])
    with lab.netlink("alice") as connection:
        four = netlink_route.routes(connection, socket.AF_INET)
        six = netlink_route.routes(connection, socket.AF_INET6)
    assert ("0.0.0.0/0", "10.1.1.1") in [(route.destination, route.via) for route in four]
    assert ("::/0", "fd00:1:1::1") in [(route.destination, route.via) for route in six]


@pytest.mark.parametrize(("node", "forwards"), [("isp1", "1"), ("alice", "0")])
def test_sysctls_are_those_of_the_nodes_part(lab, node, forwards):
    with lab.inside(node):
        for key, wanted in {
            "ipv4/ip_forward": forwards,
            "ipv6/conf/all/forwarding": forwards,
            "ipv4/conf/all/rp_filter": "0",
            "ipv6/conf/default/accept_dad": "0",
        }.items():
            assert Path("/proc/sys/net", key).read_text().strip() == wanted, key


def test_a_shared_lines_host_uses_only_its_block_of_ports(tmp_path):
    plan = small_plan()
    alice, bob = plan.subscribers
    plan = small_plan(subscribers=(dataclasses.replace(alice, port_first=20000, port_last=20009), bob))

    with build(plan, tmp_path) as lab, lab.inside("alice"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(("10.1.1.1", 9))
            assert 20000 <= sender.getsockname()[1] <= 20009


def test_members_of_an_exchange_reach_each_other_over_its_bridge(tmp_path):
    def member(number: int) -> Link:
        node = Interface(f"m{number}", "lan", (f"10.5.0.{number}/24",), (f"fd00:5::{number}/64",))
        return Link(f"port-{number}", "exchange", node, Interface("ix", f"m{number}", bridge="br"))

    plan = small_plan(
        nodes=(
            Node("ix", "exchange", 1, True),
            *(Node(f"m{number}", "isp", 2, True) for number in (1, 2, 3)),
        ),
        links=tuple(member(number) for number in (1, 2, 3)),
        bridges=(Bridge("ix", "br", ("10.5.0.254/24",)),),
        subscribers=(),
    )

    with build(plan, tmp_path) as lab:
        assert (
            reaches(lab, "m1", "10.5.0.2")
            and reaches(lab, "m3", "fd00:5::1")
            and reaches(lab, "m2", "10.5.0.254")
        )


# -- what cannot be built


def test_every_link_the_kernel_refuses_is_named(tmp_path):
    plan = small_plan()
    bad = [
        dataclasses.replace(link, a=dataclasses.replace(link.a, ipv4=("10.1.1.2/24", "10.1.1.2/24")))
        for link in plan.links
        if link.name in ("acc-alice", "acc-bob")
    ]

    with pytest.raises(
        NetlinkError, match=r"node alice: eth0: address 10\.1\.1\.2/24: File exists \(EEXIST\)"
    ):
        with build(small_plan(links=(*bad, *plan.links[2:])), tmp_path):
            pass


def test_a_batch_names_every_request_that_failed_and_carries_out_the_others(lab):
    index = lab.port("alice", "eth0").index

    with lab.netlink("alice") as connection, pytest.raises(NetlinkError) as caught:
        connection.batch(
            [
                netlink_route.address_add(index, "10.1.1.2/24", "first"),
                netlink_route.address_add(index, "10.77.0.1/24", "second"),
                netlink_route.route_add("10.88.0.0/16", "192.0.2.1", None, "third"),
            ]
        )

    assert "first: File exists" in str(caught.value) and "third: Network is unreachable" in str(caught.value)
    assert "second" not in str(caught.value)
    assert "10.77.0.1/24" in lab.cmd("alice", ["ip", "-br", "address"]).stdout


def test_a_plan_that_contradicts_itself_is_named(tmp_path):
    plan = small_plan()
    twice = dataclasses.replace(plan.links[0], name="again")
    with pytest.raises(ValueError, match="link again: alice already has an interface 'eth0'"):
        with build(small_plan(links=(*plan.links, twice)), tmp_path):
            pass
    with pytest.raises(ValueError, match="link acc-alice: there is no node 'alice'"):
        with build(small_plan(nodes=plan.nodes[:4]), tmp_path):
            pass


def test_a_program_that_is_not_installed_is_named(lab):
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        lab.spawn("alice", ["no-such-program"])


# -- nothing left


def test_closing_leaves_no_namespace_name_process_or_mount(tmp_path):
    before = namespaces_seen(), Path("/proc/self/mounts").read_text(), open_files()
    with build(small_plan(), tmp_path) as lab:
        polite = lab.spawn("alice", ["sleep", "100"])
        stubborn = lab.spawn("bob", ["sh", "-c", "trap '' TERM; echo deaf; sleep 100 & wait; sleep 100"])
        deadline = time.monotonic() + 10
        while (
            tmp_path / "sh-bob.log"
        ).read_text() != "deaf\n":  # before that, the request to end would still end it
            assert time.monotonic() < deadline
        assert len(namespaces_seen()) > len(before[0])  # control: it does show what is there
        started = time.monotonic()

    assert time.monotonic() - started < 1.0
    assert polite.returncode == -15 and stubborn.returncode == -9
    assert (namespaces_seen(), Path("/proc/self/mounts").read_text(), open_files()) == before
    assert not Path("/run/netns/alice").exists()


def test_a_build_that_fails_leaves_nothing_either(tmp_path):
    before = Path("/proc/self/mounts").read_text(), open_files()
    plan = small_plan()
    broken = dataclasses.replace(plan.links[0].a, ipv4=("10.1.1.2/24", "10.1.1.2/24"))
    links = (dataclasses.replace(plan.links[0], a=broken), *plan.links[1:])

    with pytest.raises(NetlinkError), build(small_plan(links=links), tmp_path):
        pass

    assert (Path("/proc/self/mounts").read_text(), open_files()) == before


# -- programs


def test_a_program_runs_on_its_node_and_its_words_are_in_its_log(lab):
    process = lab.spawn(
        "alice", ["sh", "-c", "echo $GREETING; ip -br address"], log="hello", env={"GREETING": "salam"}
    )
    process.wait()

    text = (lab.log_dir / "hello.log").read_text()
    assert text.startswith("salam\n") and "10.1.1.2/24" in text


def test_a_private_run_is_empty_and_keeps_the_programs_process_id(lab):
    script = "ls -A /run | wc -l; touch /run/mine; echo $$"
    process = lab.spawn("alice", ["sh", "-c", script], log="private", private_run=True)
    process.wait()

    assert (lab.log_dir / "private.log").read_text().split() == ["0", str(process.pid)]
    assert not Path("/run/mine").exists()


def test_entering_a_node_comes_back_after_an_error(lab):
    before = Path("/proc/thread-self/ns/net").readlink()
    with pytest.raises(RuntimeError), lab.inside("alice"):
        assert Path("/proc/thread-self/ns/net").readlink() != before
        raise RuntimeError
    assert Path("/proc/thread-self/ns/net").readlink() == before


def test_another_process_of_the_world_can_attach(lab, tmp_path):
    with attach(small_plan(), tmp_path) as other:
        assert reaches(other, "alice", "10.1.1.1")
    assert reaches(lab, "alice", "10.1.1.1")  # the lab outlives the other handle


def test_the_name_of_a_node_works_with_ip_netns(lab):
    done = subprocess.run(
        ["ip", "netns", "exec", "alice", "ip", "-br", "address"], capture_output=True, text=True
    )
    assert "10.1.1.2/24" in done.stdout


# -- changes while it runs


def test_a_dynamic_line_gets_another_address_of_its_subnet(lab):
    lab.change_address("alice", "10.1.1.77", "fd00:1:1::77")

    assert lab.addresses_of("alice") == ("10.1.1.77", "fd00:1:1::77")
    assert reaches(lab, "reg", "10.1.1.77") and reaches(lab, "reg", "fd00:1:1::77")
    assert reaches(lab, "alice", "10.1.9.10") and reaches(lab, "alice", "fd00:1:9::10")
    assert not reaches(lab, "reg", "10.1.1.2")  # the old one is nobody's


def test_a_dynamic_line_gets_an_address_from_elsewhere_in_the_isps_pool_and_back(lab):
    lab.change_address("alice", "10.1.200.7", "fd00:1:200::7")

    assert reaches(lab, "reg", "10.1.200.7") and reaches(lab, "alice", "fd00:1:9::10")
    assert not reaches(lab, "reg", "10.1.1.2")

    lab.change_address("alice", "10.1.1.2", None)

    assert lab.addresses_of("alice") == ("10.1.1.2", "fd00:1:200::7")
    assert reaches(lab, "reg", "10.1.1.2") and reaches(lab, "reg", "fd00:1:200::7")
    assert "10.1.200.7" not in lab.cmd("isp1", ["ip", "route"]).stdout


def test_a_line_whose_host_has_another_address_cannot_change_it(tmp_path):
    plan = small_plan()
    hidden = dataclasses.replace(plan.subscribers[0], public4="10.1.8.1", addressing="nat")
    with build(small_plan(subscribers=(hidden,)), tmp_path) as lab:
        with pytest.raises(ValueError, match=r"alice/eth0 does not carry 10\.1\.8\.1"):
            lab.change_address("alice", "10.1.1.9", None)


def test_a_cut_link_carries_nothing_and_a_mended_one_what_it_did(lab):
    assert reaches(lab, "alice", "10.1.9.10")

    lab.link_down("acc-alice")

    assert not reaches(lab, "alice", "10.1.9.10")
    with lab.netlink("isp1") as connection:
        states = {state.name: state for state in netlink_route.links(connection)}
    assert not states["alice"].is_up and states["reg"].is_up  # control: only this one

    lab.link_up("acc-alice")

    assert reaches(lab, "alice", "10.1.9.10") and reaches(lab, "alice", "fd00:1:9::10")


def test_a_changed_address_outlives_a_cut(lab):
    lab.change_address("alice", "10.1.200.7", None)
    lab.link_down("acc-alice")
    lab.link_up("acc-alice")
    assert reaches(lab, "reg", "10.1.200.7") and reaches(lab, "alice", "10.1.9.10")


# -- queues


def test_htb_and_its_queue_are_what_tc_shows(lab):
    index = lab.port("alice", "eth0").index
    with lab.netlink("alice") as connection:
        connection.batch(
            [*qdisc_htb(index, 20_000_000, "rate"), qdisc_bfifo(index, 100_000, "queue", parent=0x10001)]
        )
        assert "rate 20Mbit ceil 20Mbit" in lab.cmd("alice", ["tc", "class", "show", "dev", "eth0"]).stdout
        assert [state.kind for state in qdiscs(connection, index)] == ["htb", "bfifo"]

        connection.batch(qdisc_htb(index, 40_000_000_000, "rate", change=True))

    shown = lab.cmd("alice", ["tc", "class", "show", "dev", "eth0"]).stdout
    assert "leaf 3: prio 0 rate 40Gbit ceil 40Gbit" in shown  # the queue stayed


def test_tbf_is_what_tc_shows_and_changes_in_place(lab):
    index = lab.port("alice", "eth0").index
    with lab.netlink("alice") as connection:
        connection.batch([qdisc_tbf(index, 20_000_000, "rate", queue_bytes=50_000)])
        connection.batch([qdisc_tbf(index, 10_000_000, "rate", queue_bytes=25_000, change=True)])
        shown = json.loads(lab.cmd("alice", ["tc", "-j", "qdisc", "show", "dev", "eth0"]).stdout)[0]
        assert (shown["kind"], shown["options"]["rate"]) == ("tbf", 10_000_000 / 8)
        connection.batch([qdisc_delete(index, "rate")])
        assert [state.kind for state in qdiscs(connection, index)] == ["noqueue"]


def test_netem_works_or_its_absence_is_named(lab):
    port = lab.port("alice", "eth0")
    with lab.netlink("alice") as connection:
        request = qdisc_netem(port.index, 30_000_000, 0, 0.0, "link acc-alice: netem", limit_packets=1000)
        try:
            connection.batch([request])
        except NetlinkError as error:
            assert str(error).startswith("link acc-alice: netem: ") and "qdisc kind is unknown" in str(error)  # noqa: PT017
        else:
            started = time.monotonic()
            assert reaches(lab, "alice", "10.1.1.1") and time.monotonic() - started > 0.030


# -- captures


def test_a_capture_holds_every_packet_with_its_interface_and_only_the_wanted_ones(lab, tmp_path):
    with capturing(lab, ["isp1", "isp1:7777"], tmp_path / "captures"):
        assert reaches(lab, "alice", "10.1.9.10")
        with lab.inside("alice"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"needle-7777", ("10.1.9.10", 7777))
            sender.sendto(b"needle-8888", ("10.1.9.10", 8888))

    whole = (tmp_path / "captures" / "isp1.pcapng").read_bytes()
    one_port = (tmp_path / "captures" / "isp1-7777.pcapng").read_bytes()
    # Each crossed the ISP on two interfaces; each came back in an ICMP error, also twice.
    assert whole.count(b"needle-8888") == whole.count(b"needle-7777") == 4
    assert one_port.count(b"needle-7777") == 2 and b"needle-8888" not in one_port
    assert b"alice\0" in whole and b"isp1.gw\0" in whole


def test_wrong_wishes_for_captures_say_what_there_is(lab, tmp_path):
    for wish, words in {
        "nobody": "there is no node 'nobody'; nodes are alice, ",
        "alice:wlan0": "'wlan0' is neither a port number nor an interface of alice (eth0)",
        "alice:70000": "a port is 1 to 65535",
    }.items():
        with pytest.raises(ValueError) as caught, capturing(lab, [wish], tmp_path):
            pass
        assert words in str(caught.value)


# -- size


def test_a_flat_lab_of_100_hosts_is_up_and_the_last_one_reaches_the_first(tmp_path):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from benchmarks.lab_build import flat_plan

    with build(flat_plan(100), tmp_path) as lab:
        assert reaches(lab, "h100", "10.0.0.2") and reaches(lab, "h100", "fd00::2")
