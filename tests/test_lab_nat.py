"""Carrier-grade NAT: which rules a plan gives, and which plans are refused."""

from __future__ import annotations

import dataclasses

import pytest

from testbed.lab.nat import block_problems, nat_rules
from testbed.plan.plan import Nat, Plan
from tests.small_plan import small_plan

PUBLIC = "10.0.200.1"  # in the gateway's aggregate, so that everybody has a route to it
BLOCKS = {"alice": ("10.1.1.2", 20000, 20099), "bob": ("10.2.1.2", 20100, 20199)}

GOLDEN = """\
table ip carrier_nat
delete table ip carrier_nat
table ip carrier_nat {
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr != { 10.1.1.2, 10.2.1.2 } return
    meta l4proto { tcp, udp } snat ip to ip saddr map {
      10.1.1.2 : 10.0.200.1 . 20000-20099,
      10.2.1.2 : 10.0.200.1 . 20100-20199
    }
    meta l4proto icmp snat ip to ip saddr map {
      10.1.1.2 : 10.0.200.1 . 20000-20099,
      10.2.1.2 : 10.0.200.1 . 20100-20199
    }
    snat to ip saddr map {
      10.1.1.2 : 10.0.200.1,
      10.2.1.2 : 10.0.200.1
    }
  }
  chain input {
    type filter hook input priority filter; policy accept;
    ip daddr { 10.0.200.1 } meta l4proto != icmp drop
  }
}
"""


def nat_plan() -> Plan:
    """alice and bob behind one public address, translated at the gateway."""
    plan = small_plan()
    nats = tuple(
        Nat("gw", inside, PUBLIC, first, last, name) for name, (inside, first, last) in BLOCKS.items()
    )
    subscribers = tuple(
        dataclasses.replace(
            s, addressing="nat", public4=PUBLIC, port_first=BLOCKS[s.name][1], port_last=BLOCKS[s.name][2]
        )
        for s in plan.subscribers
    )
    return small_plan(nats=nats, subscribers=subscribers)


def test_a_node_s_blocks_are_one_batch_that_can_be_loaded_again():
    assert nat_rules(nat_plan(), "gw") == GOLDEN


@pytest.mark.parametrize(
    ("first", "last", "problem"),
    [
        (20050, 20199, "alice and bob share 10.0.200.1:20050-20099"),
        (0, 10, "bob: ports 0-10 are no block"),
        (30000, 29999, "bob: ports 30000-29999 are no block"),
    ],
)
def test_blocks_that_overlap_or_are_none_are_refused(first, last, problem):
    alice, bob = nat_plan().nats
    assert block_problems(nat_plan()) == []
    assert problem in block_problems(
        small_plan(nats=(alice, dataclasses.replace(bob, port_first=first, port_last=last)))
    )
