"""The comparison with decide() can fail: a dataplane with one rule broken is found out, by its smallest packet."""

from __future__ import annotations

import pytest
from hypothesis import Phase, find, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from enforcer.allowlist import Allowlist
from enforcer.cells import Index
from enforcer.dataplanes import nfqueue
from enforcer.dataplanes.libnft import Nft
from enforcer.dataplanes.nfqueue import NfqueueDataplane
from enforcer.dataplanes.nft import NftDataplane
from enforcer.decide import decide
from enforcer.packet import parse
from tests import enforcer_packets as make
from tests.dataplane_lab import router
from tests.dataplane_many import Tally, compare_many
from tests.test_dataplane_differential_world import (
    ENTRIES,
    LINES,
    POLICIES,
    PORTS,
    SERVERS,
    Sent,
    compare,
    disagreement,
)

pytestmark = pytest.mark.world

_PAYLOADS = {
    b"": "no payload",
    b"\xa5": "one byte of payload",
    make.WIREGUARD_INITIATION: "a WireGuard initiation",
    make.OPENVPN_RESET: "an OpenVPN client reset",
    make.IKE_SA_INIT: "an IKE_SA_INIT",
    make.L2TP_SCCRQ: "an L2TP SCCRQ",
}
packets = st.tuples(
    st.sampled_from((4, 6)),
    st.integers(0, 5),
    st.integers(0, 3),
    st.sampled_from(PORTS),
    st.sampled_from(list(_PAYLOADS)),
)


def smallest_disagreement(make_dataplane, most=300):
    """(version, line, server, port, payload) of the simplest UDP packet they differ about, which is printed; None without one."""
    policy, held = POLICIES["strict"], {entry.registration: entry for entry in ENTRIES}
    with router() as lab:
        with lab.inside():
            dataplane = make_dataplane(policy)
            dataplane.load(Allowlist(1, held))
        index, count = Index(policy.match, held.values()), 0

        def difference(drawn):
            nonlocal count
            count += 1
            version, line, server, port, payload = drawn
            ends = (LINES[version][line], SERVERS[version][server])
            data = make.udp(*ends, 10000 + count, port, payload)  # a flow of its own each time
            return disagreement(lab, dataplane, index, policy, {}, {}, Sent(data, False, (count,)))

        options = settings(
            max_examples=most,
            database=None,
            deadline=None,
            derandomize=True,
            phases=(Phase.generate, Phase.shrink),
        )
        try:
            smallest = find(packets, lambda drawn: difference(drawn) is not None, settings=options)
            tried = count
            print(
                f"{dataplane.name}, after {tried} packets: {in_words(smallest)}\n    {difference(smallest)}"
            )
            return smallest
        except NoSuchExample:
            return None
        finally:
            with lab.inside():
                dataplane.close()


def in_words(drawn) -> str:
    version, line, server, port, payload = drawn
    ends = f"{LINES[version][line]} to {SERVERS[version][server]} port {port}"
    return f"IPv{version} UDP, {ends}, with {_PAYLOADS[payload]}"


def with_nft_text(monkeypatch, right, wrong):
    run, changed = Nft.run, []

    def broken(self, script):
        changed.append(right in script)
        return run(self, script.replace(right, wrong))

    monkeypatch.setattr(Nft, "run", broken)
    return changed


def test_neither_dataplane_differs():
    assert smallest_disagreement(NftDataplane) is None
    assert smallest_disagreement(NfqueueDataplane, most=40) is None


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        ("udp dport 51820 udp sport", "udp dport 51821 udp sport", (4, 1, 0, 51820, b"")),
        ("udp length 156 @th", "udp length 157 @th", (4, 0, 0, None, make.WIREGUARD_INITIATION)),
        ("ct mark set ip saddr . ip daddr map", "ct mark set ip daddr . ip saddr map", None),
    ],
)
def test_a_broken_nft_rule_is_found_by_its_smallest_packet(monkeypatch, right, wrong, found):
    changed = with_nft_text(monkeypatch, right, wrong)
    smallest = smallest_disagreement(NftDataplane)
    assert any(changed)
    assert smallest is not None
    if found is not None:
        version, _, _, port, payload = found
        assert smallest[0] == version and smallest[4] == payload
        assert port in (None, smallest[3])


def test_a_broken_nfqueue_decision_is_found(monkeypatch):
    def broken(packet, *rest):
        hidden = parse(b"") if packet.dst_port == 500 else packet
        return decide(hidden, *rest)

    monkeypatch.setattr(nfqueue, "decide", broken)
    smallest = smallest_disagreement(NfqueueDataplane, most=100)
    assert smallest is not None and smallest[3] == 500


def test_ignored_revocations_are_found(monkeypatch):
    monkeypatch.setattr(NftDataplane, "_commands", lambda *_: iter(("add table inet allowlist",)))
    with pytest.raises(AssertionError, match="revoked|unregistered"):
        compare(NftDataplane, "strict", seed=20241110, count=500)


def test_a_batch_that_differs_is_narrowed_down_to_its_packet(monkeypatch):
    """The comparison of very many packets: it finds the same broken rule, and names one packet."""
    with_nft_text(monkeypatch, "udp length 156 @th", "udp length 157 @th")
    with pytest.raises(AssertionError, match=r"policy strict, seed 1, packet \d+: .* decide says drop, unregistered.wireguard; the kernel counted {'not-vpn': 1} and delivered"):  # fmt: skip
        compare_many(NftDataplane, "strict", 1, 2000, Tally())
    monkeypatch.undo()
    tally = Tally()
    compare_many(NftDataplane, "strict", 1, 500, tally)  # the control
    assert tally.counts.total() == 500
    assert str(tally).splitlines()[-1].split() == ["both", "all", "500", "500", "agree,", "0", "differ", f"({tally.took_s:.0f}", "s)"]  # fmt: skip
