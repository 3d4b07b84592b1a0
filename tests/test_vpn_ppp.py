"""L2TP and PPTP as far as no kernel with PPP is needed: their settings, and what is said where they cannot run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from testbed import session, session_place
from testbed.lab.vpn import VpnServers, VpnUnavailable, l2tp, ppp, pptp
from testbed.lab.vpn.servers import option_problems
from testbed.plan.load import check_paths
from testbed.plan.plan import Tunnel, VpnServer
from testbed.records import WitnessRecord
from testbed.score.taps import _Wanted
from testbed.session_needs import missing
from testbed.world.capabilities import FEATURES, Capabilities
from testbed.world.doctor import can_run, findings
from testbed.world.programs import PROGRAMS
from tests.small_plan import small_plan

ROOT = Path(__file__).parents[1]
SERVER = VpnServer("fra-l2tp", "srv", "l2tp", "10.9.0.10", None, 1701, "10.99.1.0/24", "10.99.1.1")
TUNNEL = Tunnel("alice-fra-l2tp", "alice", "fra-l2tp", 4, "10.99.1.2/24", 0, 1)


@pytest.fixture
def without_ppp(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(ppp, "DEVICE", str(tmp_path / "none"))


@pytest.mark.parametrize("module", [l2tp, pptp])
def test_a_kernel_without_ppp_is_named_before_a_missing_package(module, without_ppp, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert module.missing() == (
        "no PPP in this kernel (/dev/ppp: No such file or directory); the lab's own kernel has it:"
        " run with --clock virtual, or with --world uml"
    )


def test_without_ppp_the_servers_are_skipped_and_a_tunnel_to_one_is_an_error(without_ppp):
    lab: Any = SimpleNamespace(plan=small_plan(servers=(SERVER,), tunnels=(TUNNEL,)))
    with VpnServers(lab) as servers:
        assert servers.echo_endpoints() == []
        assert list(servers.skipped) == ["fra-l2tp"]
        with pytest.raises(VpnUnavailable, match=r"^alice-fra-l2tp: server fra-l2tp: no PPP in this kernel"):
            servers.client(TUNNEL)


def able(**changes: Any) -> Capabilities:
    """A kernel and a machine that have all a lab needs."""
    every = {feature.name: True for feature in FEATURES}
    programs = dict.fromkeys((program.name for program in PROGRAMS), "1")
    return replace(Capabilities("6.1", "x86_64", True, 2, 2**30, **every, programs=programs), **changes)


def test_a_run_is_refused_before_anything_is_built_where_its_tunnels_cannot_be(monkeypatch):
    monkeypatch.setattr("testbed.session_needs.find", lambda name: name)
    plan = small_plan(servers=(SERVER,), tunnels=(TUNNEL,))
    assert missing(plan, able()) == ""
    why = {"ppp": "ENOENT: No such file or directory"}
    text = missing(plan, able(ppp=False, reasons=why))
    assert "PPP (/dev/ppp: ENOENT: No such file or directory), which alice-fra-l2tp need" in text
    assert "modprobe ppp_generic" in text
    with monkeypatch.context() as without:
        without.setattr("testbed.session_needs.find", lambda name: None if name == "xl2tpd" else name)
        assert missing(plan, able()).endswith("sudo apt-get install xl2tpd")
    # Controls: a server without a tunnel to it, and a tunnel of a protocol that needs no PPP.
    assert missing(small_plan(servers=(SERVER,)), able(ppp=False)) == ""
    other = replace(SERVER, protocol="wireguard")
    assert missing(small_plan(servers=(other,), tunnels=(TUNNEL,)), able(ppp=False)) == ""


def test_the_refusal_says_where_else_it_can_be_played_and_nothing_was_built(tmp_path, monkeypatch):
    monkeypatch.setattr(session_place.InNamespaces, "capabilities", lambda _self: able(ppp=False))
    path = ROOT / "scenarios" / "old-protocols.scenario.yaml"
    result = session.run(path, session.Options(clock="real", results=tmp_path, report=False))
    assert (result.outcome, result.exit_code) == ("broken", 3)
    assert "exporter-fra-l2tp" in result.reason and "--clock virtual" in result.reason
    assert not (result.run_dir / "phases.json").exists() and not (result.run_dir / "events.jsonl").exists()


def test_a_login_has_one_address_and_one_server():
    login = ppp.Login("client0", "secret", TUNNEL)
    assert ppp.server_secrets(SERVER, [login]) == ["client0 fra-l2tp secret 10.99.1.2"]
    assert ppp.client_secrets(login, SERVER) == ["client0 fra-l2tp secret *"]
    assert ppp.password() != ppp.password()


def test_timers_are_what_people_have_or_bounded():
    assert "lcp-echo-interval 30\nlcp-echo-failure 4\n" in ppp.server_options(SERVER)
    bounded = replace(SERVER, options={"timers": "bounded"})
    assert "lcp-echo-interval 2\nlcp-echo-failure 2\n" in ppp.server_options(bounded)
    assert option_problems(bounded) == []
    slow = replace(SERVER, options={"timers": "slow"})
    assert option_problems(slow) == ["fra-l2tp: option timers is 'slow'; write default or bounded"]


def test_the_doctor_calls_them_absent_and_lets_labs_run():
    bare = Capabilities("6.1", "x86_64", True, 2, 2**30, reasons={"ppp": "ENOENT: No such file or directory"})
    found = {finding.name: finding for finding in findings(bare)}
    assert found["ppp"].status == "optional"
    assert "--clock virtual" in found["ppp"].text
    assert "ENOENT" in found["ppp"].text
    for name, package in (
        ("xl2tpd", "xl2tpd"),
        ("pptpd", "pptpd"),
        ("pptp", "pptp-linux"),
        ("pppd", "ppp"),
    ):
        assert found[name].status == "optional"
        assert found[name].text.endswith(f"sudo apt-get install {package}")
    # And nothing of theirs is among what makes a lab impossible.
    assert {"ppp", "xl2tpd", "pptpd", "pptp", "pppd"}.isdisjoint(
        name for name, finding in found.items() if finding.status == "missing"
    )
    assert not can_run(bare)


def test_gre_belongs_to_a_pptp_tunnel_and_esp_to_an_ikev2_one():
    def is_mine(protocol, transport: str) -> bool:
        server = replace(SERVER, protocol=protocol)
        wanted = _Wanted(transport, "10.1.1.2", 0, "10.9.0.10", 0, server, None)
        return wanted.fits(
            WitnessRecord("gw", "inside", transport, "10.1.1.2", 0, "10.9.0.10", 0, 0, 1, 1, 80)
        )

    found = {
        (protocol, transport)
        for protocol in ("pptp", "ikev2", "l2tp")
        for transport in ("gre", "esp", "ah")
        if is_mine(protocol, transport)
    }
    assert found == {("pptp", "gre"), ("ikev2", "esp"), ("ikev2", "ah")}


def problems(tmp_path: Path, tunnels: str, pptp_more: str = "") -> str:
    topology = (ROOT / "topologies" / "minimal.topology.yaml").read_text()
    own = f"fra-l2tp: {{protocol: l2tp}}\n      fra-pptp: {{protocol: pptp{pptp_more}}}"
    old = "fra-openvpn-udp: {protocol: openvpn-udp}"
    assert old in topology
    (tmp_path / "x.topology.yaml").write_text(topology.replace(old, own))
    (tmp_path / "x.scenario.yaml").write_text(
        "title: x\ndescription: y\ntopology: x.topology.yaml\nduration: 20s\n"
        f"tunnels:\n  - {tunnels}\n"
        "traffic: [{group: web, probe: https, whoever: {}, to: fra-https, every: 1s}]\n"
        "expect: [{figure: delivered_ratio, where: {group: web}, at-least: 90%}]\n"
    )
    return "\n".join(map(str, check_paths([tmp_path / "x.scenario.yaml", tmp_path / "x.topology.yaml"])))


def test_what_the_protocols_cannot_do_is_a_mistake_in_the_file(tmp_path):
    assert problems(tmp_path, "{who: [company, household], server: [fra-l2tp, fra-pptp]}") == ""
    assert problems(tmp_path, "{who: freelancer, server: fra-l2tp}") == ""
    assert "freelancer shares an address, and PPTP's data (GRE) has no ports" in problems(
        tmp_path, "{who: freelancer, server: fra-pptp}"
    )
    assert "fra-l2tp is reached over IPv4 alone" in problems(
        tmp_path, "{who: company, server: fra-l2tp, family: 6}"
    )
    assert "PPTP has port 1723 and no other" in problems(
        tmp_path, "{who: company, server: fra-pptp}", ", port: 1724"
    )
