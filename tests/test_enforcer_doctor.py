"""The doctor tells a newcomer which dataplane can do what, and why one cannot."""

from __future__ import annotations

import pytest

from enforcer.doctor import probe, render

FOUND = {
    "kernel": "6.1.0",
    "python": "3.11.7",
    "dataplanes": {
        "nft": {"works": True, "actions": dict.fromkeys(("drop", "reject", "police", "observe")), "notes": ["changes go through nft"]},
        "bpf": {"works": True, "actions": {"drop": None, "reject": "not offered", "police": None, "observe": None}, "notes": []},
        "nfqueue": {"works": False, "actions": {}, "notes": ["iptables-nft is not here; install iptables (iptables-nft)"]},
    },
}  # fmt: skip


def test_a_table_and_what_to_know():
    assert render(FOUND).splitlines() == [
        "kernel 6.1.0, Python 3.11.7; each was tried in a network namespace of its own, and nothing is left of it",
        "",
        "dataplane  works  drop     reject   police   observe",
        "nft        yes    yes      yes      yes      yes",
        "bpf        yes    yes      no       yes      yes",
        "nfqueue    no     no       no       no       no",
        "",
        "nft: an nftables table, in the kernel; the default",
        "  - changes go through nft",
        "",
        "bpf: an eBPF program at the inside interfaces, the fastest; for root only",
        "  - not offered",
        "",
        "nfqueue: first packets in Python by NFQUEUE; portable, slow, for comparison",
        "  - iptables-nft is not here; install iptables (iptables-nft)",
    ]


def test_where_nothing_can_be_tried_it_says_why():
    assert render({"kernel": "6.1.0", "python": "3.11.7", "problem": "no namespace"}).splitlines() == [
        "kernel 6.1.0, Python 3.11.7",
        "nothing could be tried: no namespace",
    ]


@pytest.mark.world
def test_each_dataplane_is_tried_and_what_does_not_work_has_a_reason():
    found = probe()
    assert list(found["dataplanes"]) == ["nft", "bpf", "nfqueue"]
    for each in found["dataplanes"].values():
        if each["works"]:
            assert list(each["actions"]) == ["drop", "reject", "police", "observe"]
        else:
            assert each["notes"]
    assert found["dataplanes"]["nft"]["works"]


@pytest.mark.world
def test_a_program_that_is_missing_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("XDG_CACHE_HOME", "/nonexistent")
    found = probe()["dataplanes"]
    assert "install iptables" in found["nfqueue"]["notes"][0]
    assert not found["bpf"]["works"] and "clang" in found["bpf"]["notes"][0]
