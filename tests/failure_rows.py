"""The failure matrix: what is broken, how, and what the policy then wants. Each row breaks the real thing and heals it again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import failure_acts as act
from tests.failure_acts import Step
from tests.failure_bench import FEED, S
from tests.failure_streams import CLOSED, OPEN, REGIMES, RIGHT, everybody

ALL = ("nft", "bpf", "nfqueue")
IN_KERNEL = ("nft", "bpf")

Regime = dict[str, bool]


@dataclass(frozen=True)
class Row:
    """One condition.

    key: the policy's field that decides ("" when no policy has a say); settings: its values. regime: what then is right, by
    setting (by default what the word says). settle_s: until when after the break it may still be as before; lasts_s: how long it is
    measured after that. recover_s: until when after healing all must be right again. counted: the counter that names it.
    shortcomings: what a dataplane does instead, as its page says. lost: streams the kernel drops before any verdict.
    """

    name: str
    break_it: Step
    heal: Step
    counted: str
    key: str = ""
    settings: tuple[str, ...] = ("keep", "allow", "block")
    also: dict[str, Any] = field(default_factory=dict)
    regime: dict[str, Regime] = field(default_factory=lambda: dict(REGIMES))
    dataplanes: tuple[str, ...] = ALL
    settle_s: float = 1.5
    lasts_s: float = 1.5
    before_s: float = 0.0
    recover_s: float = 5.0
    meanwhile: tuple[Regime, ...] = ()
    shortcomings: dict[tuple[str, str], Regime] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    environment: Callable[[Path], dict[str, str]] | None = None
    prepare: Step = lambda bench: None
    check: Step = lambda bench: None
    missing: str = ""


_DEAD_QUEUE = {("nfqueue", word): OPEN for word in ("keep", "allow")} | {
    ("nfqueue", "block"): {stream: stream in ("registered-live", "other-live") for stream in RIGHT}
}
_HUNG_QUEUE = {
    ("nfqueue", word): {stream: stream in ("registered-live", "other-live") for stream in RIGHT}
    for word in ("keep", "allow", "block")
}
_DEAD = {"agent_dead_after_ns": 2 * S}


def feed_row(name: str, mode: str, counted: str, key: str, **more: Any) -> Row:
    return Row(name, act.lie(mode), act.honest, counted, key, **more)


ROWS = [
    Row(
        "agent killed",
        act.kill,
        act.start,
        "agent-dead",
        "agent_dead",
        also=_DEAD,
        settle_s=3.5,
        shortcomings=_DEAD_QUEUE,
        meanwhile=(RIGHT,),
    ),
    Row(
        "agent hung",
        act.hang,
        act.go_on,
        "agent-dead",
        "agent_dead",
        also=_DEAD,
        settle_s=3.5,
        shortcomings=_HUNG_QUEUE,
    ),
    Row(
        "agent restarted under load",
        act.restart,
        lambda bench: None,
        "started",
        "agent_dead",
        settings=("keep", "block"),
        also={"agent_dead_after_ns": 20 * S},
        regime={"keep": RIGHT, "block": RIGHT},
        settle_s=0,
        lasts_s=1,
        shortcomings=_DEAD_QUEUE,
    ),
    feed_row(
        "feed unreachable",
        "silent",
        "registry-unreachable",
        "registry_unreachable",
        also={"registry_unreachable_after_ns": 2 * S},
        settle_s=3.5,
    ),
    feed_row(
        "feed hangs",
        "hanging",
        "registry-unreachable",
        "registry_unreachable",
        settings=("keep", "block"),
        also={"registry_unreachable_after_ns": 2 * S},
        settle_s=4.5,
    ),
    *(
        feed_row(
            name,
            "dripping",
            "registry-unreachable",
            "registry_unreachable",
            settings=("keep", "block"),
            also={"registry_unreachable_after_ns": 2 * S},
            prepare=prepare,
            config={"feed": FEED | {"within": "1s"}},
            settle_s=4.5,
            check=act.dripping_is_named,
        )
        for name, prepare in (("feed dripping", lambda bench: None), ("feed's lines dripping", act.listen))
    ),
    feed_row(
        "feed stale", "old", "feed-stale", "feed_stale", also={"feed_stale_after_ns": 2 * S}, settle_s=4.0
    ),
    feed_row("feed empty", "empty", "empty", "", settings=("",), regime={"": RIGHT}),
    feed_row("feed truncated", "truncated", "truncated", "", settings=("",), regime={"": RIGHT}),
    feed_row(
        "feed replayed",
        "replayed",
        "serial-wrong",
        "serial_wrong",
        prepare=act.one_more,
        settle_s=3,
    ),
    feed_row("feed forged", "forged", "signature-wrong", "signature_wrong", settle_s=3),
    Row(
        "feed shrinks",
        act.shrink,
        act.grow_back,
        "feed-shrinks",
        "feed_shrinks",
        settings=("keep", "accept", "block"),
        regime={"keep": RIGHT, "block": CLOSED, "accept": CLOSED},
        settle_s=4,
    ),
    Row(
        "registry restored from an old backup",
        act.restore_the_backup,
        act.let_it_overtake,
        "serial-wrong",
        "serial_wrong",
        settings=("keep", "block"),
        prepare=act.keep_a_backup,
        settle_s=4,
        recover_s=8,
        check=lambda bench: bench.wait_for(bench.serial_is_newest),
    ),
    Row(
        "table full",
        act.approve_too_many,
        act.suspend_them,
        "table-full",
        "table_full",
        config={"most-cells": 50},
        settle_s=4,
        recover_s=8,
    ),
    Row(
        "rules taken away",
        act.take_the_rules_away,
        lambda bench: None,
        "dataplane-dead",
        "dataplane_dead",
        settings=("keep", "block"),
        regime={"keep": RIGHT, "block": RIGHT},
        meanwhile=(OPEN, CLOSED),
        settle_s=2.5,
        shortcomings={},
    ),
    Row(
        "NFQUEUE full",
        act.fill_the_queue,
        act.go_on,
        "queue-full",
        "queue_full",
        settings=("allow", "block"),
        regime={
            "allow": OPEN,
            "block": {stream: stream in ("registered-live", "other-live") for stream in RIGHT},
        },
        dataplanes=("nfqueue",),
        settle_s=3,
        recover_s=25,
        meanwhile=(everybody(False),),
    ),
    Row(
        "connection table full",
        act.fill_conntrack,
        act.empty_conntrack,
        "conntrack-full",
        "",
        settings=("",),
        regime={"": RIGHT},
        dataplanes=("nft", "nfqueue"),
        before_s=2.5,  # the kernel takes a UDP flow for a real one after 2 s (nf_conntrack_proto_udp.c)
        settle_s=0.5,
        lasts_s=2.5,
        lost=("registered-new", "other-new"),
    ),
    Row(
        "log not read",
        act.flood_unread,
        act.go_on,
        "reports-lost",
        "",
        settings=("",),
        regime={"": RIGHT},
        dataplanes=IN_KERNEL,
        settle_s=0.2,
    ),
    Row(
        "disk full",
        act.fill_the_disk,
        act.clear_the_disk,
        "disk-full",
        "disk_full",
        prepare=act.small_disk,
        settle_s=3,
        check=act.disk_has_it_again,
    ),
    *(
        Row(
            f"clock {hours:+} h",
            act.set_clock(hours),
            act.set_clock(0),
            "clock-jumped",
            "clock_jumped",
            environment=act.settable_clock,
            settle_s=2.5,
            missing="" if shutil.which("gcc") else "gcc is not here, to build a clock that can be set",
        )
        for hours in (1, -1)
    ),
    Row(
        "second agent",
        act.start_a_second,
        lambda bench: None,
        "",
        "",
        settings=("",),
        regime={"": RIGHT},
        settle_s=0,
        lasts_s=0.5,
    ),
]
