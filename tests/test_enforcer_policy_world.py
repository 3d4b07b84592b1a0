"""What a policy says about time, rate, categories and privacy, with real packets through each dataplane and a ticking agent.

The feed is silent throughout: the agent has its list and nobody pushes.
"""

from __future__ import annotations

import json
import os
import queue
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files

import pytest

from enforcer.agent import TICK_S, Agent
from enforcer.allowlist import Allowlist, Delta, Removal
from enforcer.audit import Audit
from enforcer.config import Config
from enforcer.dataplanes import DataplaneError
from enforcer.dataplanes.nfqueue import NfqueueDataplane
from enforcer.dataplanes.nft import NftDataplane
from enforcer.decide import Flow, decide
from enforcer.packet import parse
from enforcer.policy import AuditRules, parse_policy
from enforcer.privacy import Addresses
from enforcer.registry.feed import delta_body, sign, snapshot_body
from enforcer.store import Store
from tests import enforcer_packets as make
from tests.agent_bench import KEY
from tests.dataplane_lab import router, wait_until
from tests.dataplane_traffic import LINE, OTHER_LINE, SERVER, STRICT, delivered, entry, wireguard
from tests.test_dataplane_bpf_world import OnTheClientSide

pytestmark = pytest.mark.world
S = 1_000_000_000
KINDS = {"nft": NftDataplane, "nfqueue": NfqueueDataplane, "bpf": OnTheClientSide}
EACH = pytest.mark.parametrize("kind", KINDS)
SLACK_S = 1.0  # an end or a beginning takes effect within this


class Ticking:
    """An agent that ticks in a thread of its own, in the router's namespace, until the block ends."""

    def __init__(self, lab, folder, policy, kind, *entries, addresses=None):
        self._lab, self._folder, self._policy, self._kind = lab, folder, policy, KINDS[kind]
        self._entries, self._addresses = entries, addresses
        self._asked: queue.Queue[Callable[[Agent], object]] = queue.Queue()
        self._is_ready, self._is_ending = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self.audit = folder / "audit.jsonl"
        self._thread = threading.Thread(target=self._work)

    def __enter__(self):
        self._thread.start()
        assert self._is_ready.wait(30)
        if isinstance(self._error, DataplaneError) and (
            os.geteuid() != 0
            or "clang is not here" in str(self._error)
            or "let this user" in str(self._error)
        ):
            pytest.skip(str(self._error))
        assert self._error is None, self._error
        return self

    def __exit__(self, *_):
        self._is_ending.set()
        self._thread.join(20)
        assert self._error is None, self._error

    def ask(self, do: Callable[[Agent], object]) -> None:
        """Have it done between two ticks, and wait until it is."""
        done = threading.Event()
        self._asked.put(lambda agent: (do(agent), done.set()))
        assert done.wait(10)

    def lines(self, kind):
        # The last one is being written, or empty.
        lines = map(json.loads, self.audit.read_text().split("\n")[:-1])
        return [line for line in lines if line["kind"] == kind]

    def _work(self):
        try:
            with self._lab.inside():
                self._enforce()
        except BaseException as error:
            self._error = error
        finally:
            self._is_ready.set()

    def _enforce(self):
        config = Config(
            file=self._folder / "e",
            policy=self._folder / "p",
            dataplane="nft",
            feed_url="http://192.0.2.1/feed",
            feed_key=self._folder / "k",
            poll_ns=S,
            state=self._folder / "state",
            audit=self.audit,
            control=self._folder / "c",
            inside=(),
            outside=(),
            log_group=4747,
            most_cells=1000,
        )
        dataplane = self._kind(self._policy)
        try:
            audit = Audit(self.audit, addresses=self._addresses)
            agent = Agent(config, self._policy, dataplane, KEY.public_key(), audit)
            agent.start()
            listing = Allowlist(1, {each.registration: each for each in self._entries})
            assert agent.take(sign(snapshot_body(listing, time.time_ns()), KEY).encode())
            self._is_ready.set()
            while not self._is_ending.is_set():
                while not self._asked.empty():
                    self._asked.get()(agent)
                agent.tick()
                agent._read_stops()
                time.sleep(TICK_S)  # as the agent does itself
            agent._stop()
        finally:
            dataplane.close(remove=True)


def _calm(policy):
    """Nothing about the feed's silence counts as a failure."""
    long_ns = 10**15
    failure = replace(
        policy.on_failure,
        registry_unreachable_after_ns=long_ns,
        feed_stale_after_ns=long_ns,
        agent_dead_after_ns=60 * S,
    )
    return replace(policy, on_failure=failure)


@EACH
def test_a_registration_begins_and_ends_at_its_second_with_nobody_pushing(tmp_path, kind):
    with router() as lab:
        turn_ns = time.time_ns() + 3 * S
        ending, beginning = entry(7, valid_until_ns=turn_ns), entry(8, OTHER_LINE, valid_from_ns=turn_ns)
        first, later = wireguard(4, 7777), wireguard(4, 7777, line=OTHER_LINE)
        live = wireguard(4, 7777, data=make.WIREGUARD_DATA)
        with Ticking(
            lab, tmp_path, _calm(STRICT), kind, ending, beginning, entry(9, {4: "10.0.0.9", 6: "fd00::9"})
        ):
            assert delivered(lab, first) and delivered(lab, live) and not delivered(lab, later)
            assert time.time_ns() < turn_ns, "the machine is too slow for this test"
            passed_ns = stopped_ns = 0
            while time.time_ns() < turn_ns + SLACK_S * S and not (passed_ns and stopped_ns):
                began_ns = time.time_ns()
                if delivered(lab, live):
                    assert began_ns < turn_ns + SLACK_S * S
                else:
                    stopped_ns = stopped_ns or time.time_ns()
                if delivered(lab, later):
                    passed_ns = passed_ns or time.time_ns()
            assert turn_ns <= stopped_ns and turn_ns <= passed_ns
            assert not delivered(lab, live) and delivered(lab, later)
            assert delivered(lab, wireguard(4, 7777, line={4: "10.0.0.9"}))  # control: it has no end


@EACH
def test_a_live_flow_may_finish_so_long_and_no_longer(tmp_path, kind):
    within_s = 1.5
    policy = replace(_calm(STRICT), live_flows="let-finish", let_finish_ns=int(within_s * S))
    other = {4: "10.0.0.9", 6: "fd00::9"}
    with router() as lab, Ticking(lab, tmp_path, policy, kind, entry(7), entry(8, other)) as agent:
        live = wireguard(4, 7777, data=make.WIREGUARD_DATA)
        control = wireguard(4, 7777, data=make.WIREGUARD_DATA, line=other)
        assert delivered(lab, wireguard(4, 7777)) and delivered(lab, wireguard(4, 7777, line=other))
        revoked = sign(delta_body(Delta(1, 2, (), (Removal(7, "revoked"),)), time.time_ns()), KEY).encode()
        before_s = time.monotonic()
        agent.ask(lambda each: each.take(revoked))
        after_s = time.monotonic()
        assert not delivered(lab, wireguard(4, 7777, src_port=40009))  # no new one
        last_s = before_s
        while delivered(lab, live):
            last_s = time.monotonic()
            assert last_s < after_s + within_s + SLACK_S
        assert time.monotonic() >= before_s + within_s  # not cut before its time
        assert delivered(lab, control)


@pytest.mark.parametrize("kind", ["nft", "nfqueue"])
def test_a_policed_flow_gets_the_rate_and_no_more(tmp_path, kind):
    policy = parse_policy((files("enforcer") / "policies" / "police-unregistered.policy.yaml").read_text())
    rate_bps, packet_bytes = 256_000, 1028
    policy = replace(_calm(policy), police_bps=rate_bps)
    with router() as lab, Ticking(lab, tmp_path, policy, kind, entry(7)):
        offered, passed, took_s = measured(lab, OTHER_LINE, 2.0, packet_bytes, 4 * rate_bps)
        registered = measured(lab, LINE, 0.5, packet_bytes, 4 * rate_bps)
    burst_bytes = rate_bps / 8 + 3000  # docs/policy-files.md: a second's worth and 3,000 bytes
    allowed = burst_bytes + rate_bps / 8 * took_s
    assert 0.85 * allowed <= passed <= 1.03 * allowed + packet_bytes, (passed, allowed)
    assert offered > 2 * passed
    assert registered[0] == registered[1]  # control


def measured(lab, line, for_s, packet_bytes, offered_bps):
    """(bytes sent, bytes delivered, s) of one flow that sends steadily; IP bytes."""
    first = wireguard(4, 51820, line=line)
    data = make.udp(line[4], SERVER[4], 40000, 51820, make.WIREGUARD_DATA[:4] + b"\xa5" * (packet_bytes - 32))
    assert len(data) == packet_bytes
    assert delivered(lab, first)
    before = len(lab.server.collect())
    began_s, sent = time.monotonic(), 0
    while (now_s := time.monotonic() - began_s) < for_s:
        if sent * packet_bytes * 8 <= now_s * offered_bps:
            lab.client.send(data)
            sent += 1
        else:
            time.sleep(0.0005)
    delivered(lab, make.udp(line[4], SERVER[4], 41000, 33001, b"last"))  # what went before has come by now
    own = [each for each in lab.server.collect()[before:] if each[-40:] == data[-40:]]
    return sent * packet_bytes, len(own) * packet_bytes, now_s


SECRET_PAYLOAD = b"PAYLOADTHATNOBODYMAYKEEP"


@EACH
@pytest.mark.parametrize("setting", ["prefix", "keyed-hash"])
def test_each_dataplane_counts_only_the_named_categories_and_its_audit_keeps_no_address(
    tmp_path, kind, setting
):
    policy = _calm(
        parse_policy((files("enforcer") / "policies" / "licensed-providers-only.policy.yaml").read_text())
    )
    policy = replace(policy, audit=AuditRules(setting), match="subscriber+endpoint")
    rng = random.Random(20251113)
    lines = [{4: f"10.0.0.{host}", 6: f"fd00::{host:x}"} for host in range(21, 33)]
    entries = [
        entry(number, line, category=rng.choice(("provider", "company", "")))
        for number, line in enumerate(lines[:10], 1)
    ]
    whole = Allowlist(1, {each.registration: each for each in entries})
    seen = set()
    with (
        router() as lab,
        Ticking(lab, tmp_path, policy, kind, *entries, addresses=Addresses(policy.audit)) as agent,
    ):
        for number, line in enumerate(lines):
            for version in (4, 6):
                data = make.WIREGUARD_INITIATION[:-24] + SECRET_PAYLOAD
                packet = wireguard(version, src_port=40000 + number, data=data, line=line)
                verdict = decide(parse(packet), Flow(), whole, policy, time.time_ns())
                assert delivered(lab, packet) == verdict.passes, line
                seen.add(verdict.reason)
        assert seen == {"registered", "unregistered"}
        wait_until(lambda: len(agent.lines("block")) >= 4)
    text = agent.audit.read_text()
    assert '"unregistered"' in text
    assert SECRET_PAYLOAD.decode() not in text
    assert not any(f'"{line[version]}"' in text for line in [*lines, SERVER] for version in (4, 6))
    assert not any(line[version] in text for line in lines for version in (4, 6) if version == 4)


def test_a_glitch_in_the_kernels_table_is_told_from_a_missing_registration(tmp_path):
    with router() as lab, Ticking(lab, tmp_path, _calm(STRICT), "nft", entry(7)) as agent:
        assert delivered(lab, wireguard(4))
        time.sleep(2.1)  # the list has had it for longer than any report takes (enforced._SURE_NS)
        for found in json.loads(lab.run("nft", "-j", "list", "maps"))["nftables"]:
            if "map" in found:
                lab.run("nft", "flush", "map", "inet", "allowlist", found["map"]["name"])
        assert not delivered(lab, wireguard(4, src_port=40001))
        assert not delivered(lab, wireguard(4, src_port=40002, line=OTHER_LINE))
        wait_until(lambda: len(agent.lines("block")) >= 2)
    told = {line["src"]: (line["registration"], line["registration_state"]) for line in agent.lines("block")}
    assert told == {LINE[4]: (7, "active"), OTHER_LINE[4]: (None, None)}


@EACH
@pytest.mark.nightly
def test_the_program_lets_a_registration_begin_and_end_by_itself(tmp_path, kind):
    """As above, with `enforcer run`: it has nothing but what it kept, and a registry that never answers."""
    with router() as lab:
        turn_ns = time.time_ns() + 20 * S
        entries = (entry(7, valid_until_ns=turn_ns), entry(8, OTHER_LINE, valid_from_ns=turn_ns))
        listing = Allowlist(1, {each.registration: each for each in entries})
        store = Store(tmp_path / "state")
        store.keep_snapshot(sign(snapshot_body(listing, time.time_ns()), KEY).encode())
        (tmp_path / "feed.pub").write_text(KEY.public_key().public_bytes_raw().hex())
        (tmp_path / "p.policy.yaml").write_text(json.dumps(_calm(STRICT).to_json()))
        (tmp_path / "enforcer.json").write_text(
            json.dumps(
                {
                    "policy": "p.policy.yaml",
                    "dataplane": kind,
                    "feed": {"url": "http://127.0.0.1:9/feed", "key": "feed.pub"},
                    "state": "state",
                    "audit": "audit.jsonl",
                    "control": "sock",
                    "inside": ["gc"],
                }
            )
        )
        argv = [sys.executable, "-m", "enforcer", "run", "--config", str(tmp_path / "enforcer.json")]
        with lab.inside():
            process = subprocess.Popen(argv)
        try:
            audit = tmp_path / "audit.jsonl"
            wait_until(lambda: audit.exists() and '"applied"' in audit.read_text(), 15)
            live, later = wireguard(4, 7777, data=make.WIREGUARD_DATA), wireguard(4, 7777, line=OTHER_LINE)
            assert delivered(lab, wireguard(4, 7777)) and delivered(lab, live) and not delivered(lab, later)
            wait_until(lambda: time.time_ns() > turn_ns - S // 4, 30)
            assert delivered(lab, live) or time.time_ns() > turn_ns
            wait_until(lambda: not delivered(lab, live) and delivered(lab, later), SLACK_S + 0.25)
        finally:
            process.terminate()
            process.wait(10)
