"""Faults: each strikes what it says, leaves its neighbours alone, and is healed however it ends. Before, during, after."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from testbed import faults
from testbed.faults.kinds import KINDS
from tests.small_plan import small_plan


def site(lab, links=None, enforcers=None):
    return SimpleNamespace(lab=lab, links=links, enforcers=enforcers)


class FakeLab:
    """Enough of a lab to see in what order links are struck and healed; `refuses` cannot be mended."""

    def __init__(self, refuses: str | None = None) -> None:
        self.plan = small_plan()
        self.refuses = refuses
        self.done: list[str] = []

    def link_down(self, link: str) -> None:
        self.done.append(f"down {link}")

    def link_up(self, link: str) -> None:
        self.done.append(f"up {link}")
        if link == self.refuses:
            raise OSError(f"{link} stays down")


def test_every_kind_a_plan_may_name_can_be_made():
    assert set(faults._STRIKE) == set(KINDS)


def test_several_places_are_struck_in_order_and_healed_once():
    lab = FakeLab()
    fault = faults.begin(site(lab), {"kind": "link-down", "at": ["cable", "isp1-gw"], "until_ns": 5})
    assert lab.done == ["down cable", "down isp1-gw"]
    fault.end()
    fault.end()
    assert lab.done[2:] == ["up isp1-gw", "up cable"]


def test_what_was_struck_is_healed_when_the_next_place_cannot_be():
    lab = FakeLab()
    with pytest.raises(ValueError, match="there is no link 'nowhere' to strike"):
        faults.begin(site(lab), {"kind": "link-down", "at": ["cable", "nowhere"]})
    assert lab.done == ["down cable", "up cable"]


def test_one_place_that_cannot_be_healed_does_not_keep_the_others_down():
    lab = FakeLab(refuses="isp1-gw")
    fault = faults.begin(site(lab), {"kind": "link-down", "at": ["cable", "isp1-gw"]})
    with pytest.raises(OSError, match="isp1-gw stays down"):
        fault.end()
    assert lab.done[-1] == "up cable"


def test_a_fault_is_healed_when_its_block_is_interrupted():
    lab = FakeLab()
    with pytest.raises(KeyboardInterrupt), faults.begin(site(lab), {"kind": "link-down", "at": ["cable"]}):
        raise KeyboardInterrupt
    assert lab.done == ["down cable", "up cable"]


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ({"kind": "earthquake", "at": []}, "no such fault: 'earthquake'; known are allowlist-ignored, "),
        ({"kind": "link-down", "at": ["cable"], "colour": 1}, "fault link-down takes no colour"),
        ({"kind": "link-degrade", "at": ["cable"]}, "changes nothing; give rate, delay, jitter or loss"),
        ({"kind": "registry-unreachable", "at": ["srv"]}, "the registry does not run on 'srv'"),
        ({"kind": "enforcer-crash", "at": ["gw"]}, "no enforcer runs on 'gw'"),
        ({"kind": "allowlist-ignored", "at": ["isp1"]}, "no enforcer runs on 'isp1'"),
    ],
)
def test_what_cannot_be_struck_is_refused_with_its_name(args, problem):
    with pytest.raises(ValueError, match=problem):
        faults.begin(site(FakeLab()), args)
