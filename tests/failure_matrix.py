"""Plays one row of the failure matrix and makes the table: condition, dataplane, setting, sent / passed / misjudged, recovery."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.failure_bench import Bench, bench, now_s
from tests.failure_rows import Row
from tests.failure_streams import LATE_S, RIGHT, STREAMS, Sent, Streams

BEFORE_S, AFTER_S = (
    2.5,
    1.0,
)  # the kernel takes a UDP flow for a real one after 2 s (nf_conntrack_proto_udp.c)


@dataclass(frozen=True)
class Result:
    """Packets: of the time the failure was measured. misjudged: otherwise than the policy says, in the whole row.

    recovery_s: from healing until the last packet that was not yet right.
    """

    condition: str
    dataplane: str
    setting: str
    sent: int
    passed: int
    misjudged: int
    lost: int
    recovery_s: float
    shortcoming: bool
    detail: dict[str, Any]


def play(row: Row, dataplane: str, setting: str, folder: Path) -> Result:
    """Raises AssertionError when a control fails, when it does not recover, or when no counter names the condition."""
    on_failure = dict(row.also) | ({row.key: setting} if row.key else {})
    environment = row.environment(_made(folder)) if row.environment else {}
    disk = folder / "bench"
    with bench(disk, dataplane, on_failure, config=row.config, environment=environment) as made:
        if row.name == "disk full":
            row.prepare(made)
        made.begin()
        if row.name != "disk full":
            row.prepare(made)
        with Streams(made.lab) as streams:
            return _measure(row, dataplane, setting, made, streams)


def _measure(row: Row, dataplane: str, setting: str, made: Bench, streams: Streams) -> Result:
    regime = row.regime[setting]
    count_before = made.count(row.counted) if row.counted else 0
    began_s = now_s()
    _until(began_s + max(BEFORE_S, row.before_s))
    broke_s = now_s()
    row.break_it(made)
    broken_s = now_s()
    settled_s = broken_s + row.settle_s
    _until(settled_s + row.lasts_s)
    healed_s = now_s()
    row.heal(made)
    healing_done_s = now_s()
    _until(max(healing_done_s, healed_s) + 0.5)
    if row.counted and row.counted != "started":
        made.wait_for(lambda: made.count(row.counted) > count_before or row.counted in _told(made), 10)
    deadline_s = healing_done_s + row.recover_s
    last_wrong_s = healed_s
    while True:
        _until(now_s() + AFTER_S)
        # What was sent a second ago is judged by now.
        wrong = streams.wrong(RIGHT, healed_s, now_s() - 1.2)
        last_wrong_s = max([healed_s, *(each.at_s for each in wrong)])
        if now_s() - 1.2 - last_wrong_s > AFTER_S:
            break
        assert now_s() < deadline_s + 3, (
            f"it did not recover: {Counter(each.stream for each in wrong)}; {made.status()}"
        )
    row.check(made)
    ended_s = now_s() - 1.2
    _until(now_s() + 1.2)

    before = streams.wrong(RIGHT, began_s + 0.3, broke_s - 0.05)
    assert not before, f"wrong before anything was broken: {_when(before, broke_s)}"
    after = streams.wrong(RIGHT, last_wrong_s + 0.01, ended_s)
    assert not after, f"wrong after it was healed: {_when(after, healed_s)}"
    during = streams.between(settled_s, healed_s - 0.05)
    assert during, "nothing was sent while it was broken"
    settling = streams.wrong(RIGHT, broke_s - 0.05, settled_s, regime, *row.meanwhile)
    wrong = streams.wrong(regime, settled_s, healed_s - 0.05)
    healing = streams.wrong(RIGHT, healed_s - 0.05, last_wrong_s + 0.01, regime, *row.meanwhile)
    lost = [each for each in [*wrong, *settling, *healing] if each.stream in row.lost and not each.did_pass]
    misjudged = [each for each in [*settling, *wrong, *healing] if each not in lost]
    instead = row.shortcomings.get((dataplane, setting))
    if instead is not None:  # as documented, not as the policy says
        # What waited for a hung agent comes out when it goes on, and not too late if it was sent just before.
        other = streams.wrong(instead, settled_s, healed_s - LATE_S - 0.05, regime)
        assert not other, f"not even as documented: {Counter(each.stream for each in other)}"
    return Result(
        row.name,
        dataplane,
        setting or "no say",
        len(during),
        sum(each.did_pass for each in during),
        len(misjudged),
        len(lost),
        round(max(0.0, last_wrong_s - healed_s), 2),
        instead is not None,
        {
            "by_stream": {
                stream: [
                    sum(each.did_pass for each in during if each.stream == stream),
                    sum(each.stream == stream for each in during),
                ]
                for stream in STREAMS
            },
            "misjudged": dict(Counter(each.stream for each in misjudged)),
        },
    )


def _when(packets: list[Sent], of_s: float) -> list[tuple[str, float]]:
    return [(each.stream, round(each.at_s - of_s, 2)) for each in packets[:20]]


def _told(made: Bench) -> set[str]:
    """Conditions an agent before the one that runs now has written into the audit."""
    return {line["condition"] for line in made.lines("failure")}


def write(results: list[Result], folder: Path) -> Path:
    """failure-matrix.json, whose path is returned, and failure-matrix.md."""
    path = folder / "failure-matrix.json"
    found = [asdict(each) for each in results]
    path.write_text(json.dumps(found, indent=1))
    path.with_suffix(".md").write_text(table(found))
    return path


def table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| condition | dataplane | policy says | sent | passed | misjudged | lost by the kernel | recovery |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    for each in sorted(results, key=lambda each: (each["condition"], each["dataplane"], each["setting"])):
        mark = " ¹" if each["shortcoming"] and each["misjudged"] else ""
        lines.append(
            f"| {each['condition']} | {each['dataplane']} | {each['setting']} | {each['sent']} | {each['passed']} | "
            f"{each['misjudged']}{mark} | {each['lost'] or ''} | {each['recovery_s']:.2f} s |"
        )
    return "\n".join(lines) + "\n"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _until(at_s: float) -> None:
    time.sleep(max(0.0, at_s - now_s()))


if __name__ == "__main__":
    merged = {}
    for name in sys.argv[1:]:
        for each in json.loads(Path(name).read_text()):
            merged[each["condition"], each["dataplane"], each["setting"]] = each
    print(table(list(merged.values())), end="")
