"""The registry under test, and the people who use it: applicants, the ISP that verifies, the officer who decides.

Each acts over the lab's own network from where they sit: an applicant from their line, an ISP from its router, the
officer from the authority's node. The ledger is seeded with what the scenario says was registered before.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from enforcer.registry.form import CATEGORIES
from testbed.lab.daemons import end_programs
from testbed.plan.plan import Plan, Registration
from testbed.timeline.http_inside import HttpFailed, request_bytes, request_json

_FILES = Path("/run/registry")  # in the world's private /run
_LONG_NS = 10 * 365 * 86_400 * 10**9
_LOOK_S = 0.05


class RegistryFailed(Exception):
    """The registry did not start or did not answer."""


class Nodes(Protocol):
    """The part of the lab the registrar needs."""

    log_dir: Path

    def inside(self, node: str) -> AbstractContextManager[None]: ...

    def spawn(self, node: str, argv: list[str], log: str, **options: Any) -> subprocess.Popen[bytes]: ...


class Registrar:
    """Starts the registry and acts for people. One act at a time (they are milliseconds); meanwhile another thread may wait_for.

    The registry's rules are the plan's. A form names its line's ISP as provider and its subscriber by name.
    """

    def __init__(self, lab: Nodes, plan: Plan, database: Path) -> None:
        if plan.authority is None:
            raise RegistryFailed("the topology has no authority, so nothing can be registered; give it one")
        self._lab, self._plan, self._database = lab, plan, database
        self._rules = plan.registry.get("rules", {})
        if plan.clock == "real" and "calendar" in self._rules:
            raise RegistryFailed(
                "the scenario's rules have a calendar, which only a virtual clock can keep; run it with --clock virtual"
            )
        self._authority = plan.authority
        self._officer, self._isp = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        self._numbers: dict[str, int] = {}
        self._tokens: dict[str, str] = {}
        self._seen: dict[int, int] = {}
        self._lock = threading.Lock()  # two threads may ask for a history; each event is told once
        self._process: subprocess.Popen[bytes] | None = None
        self.key_file = _FILES / "feed.pub"

    @property
    def feed_url(self) -> str:
        return f"http://{self._authority.address4}:{self._authority.port}/feed"

    @property
    def numbers(self) -> dict[str, int]:
        """Registration name -> number in the ledger, for those that exist."""
        return dict(self._numbers)

    def start(self, timeout_s: float = 15.0) -> int:
        """Start the registry, wait until it answers, and return the serial of the seeded allowlist."""
        _FILES.mkdir(parents=True, exist_ok=True)
        seeded = [
            registration for registration in self._plan.registrations if registration.initial is not None
        ]
        for number, registration in enumerate(seeded, start=1):
            self._numbers[registration.name] = number
            self._tokens[registration.name] = secrets.token_urlsafe(16)
        # What is active at the start was approved at some time before, and ends at some time after the scenario.
        ends = {"valid_until_ns": time.time_ns() + _LONG_NS} if "validity" in self._rules else {}
        seed = {
            "registrations": [
                {**self._form(each), "state": each.initial, "token": self._tokens[each.name]}
                | (ends if each.initial == "active" else {})
                for each in seeded
            ]
        }
        (_FILES / "seed.json").write_text(json.dumps(seed), encoding="utf-8")
        addresses = [
            self._authority.address4,
            *([self._authority.address6] if self._authority.address6 else []),
        ]
        config = {
            "database": str(self._database),
            "key": str(_FILES / "feed.key"),
            "bind": addresses,
            "port": self._authority.port,
            "tokens": {"isp": self._isp, "officer": self._officer},
            "seed": str(_FILES / "seed.json"),
            "portal": {"accounts": str(_FILES / "accounts.sqlite")},  # nobody's; not part of the run
            **self._plan.registry,
            # A lab's addresses are all private (testbed.plan.addressing); no scenario leaves that open.
            "rules": {**self._rules, "accepts_private_addresses": True},
        }
        if self._plan.clock == "virtual":
            config["look"] = "60s"  # nobody else writes into its ledger, and each look costs real time
        (_FILES / "registry.json").write_text(json.dumps(config), encoding="utf-8")
        argv = [sys.executable, "-m", "enforcer.registry", "serve", "--config", str(_FILES / "registry.json")]
        self._process = self._lab.spawn(self._authority.node, argv, log="registry")
        return self._wait(timeout_s)

    def act(self, action: str, registration: str) -> list[dict[str, Any]]:
        """Do one thing at the portal; returns the new ledger events, oldest first.

        Each: registration (name), number, action, actor, state, serial, monotonic_ns. Raises HttpFailed when the portal
        refuses, OSError when it cannot be reached.
        """
        wanted = next(each for each in self._plan.registrations if each.name == registration)
        if action == "apply":
            answer = self._as_applicant(wanted, "POST", "/applications", self._form(wanted), has_token=False)
            self._numbers[registration], self._tokens[registration] = answer["registration"], answer["token"]
            answer = self._as_applicant(wanted, "GET", self._path(registration), None)
        elif action in ("verify", "refuse-verify"):
            body = {
                "verified": action == "verify",
                "reason": "" if action == "verify" else "subscriber and address do not match",
            }
            answer = self._as_isp(wanted, f"{self._path(registration)}/verify", body)
        elif action == "complain":
            body = {"about": "false-block", "text": "registered, and blocked all the same"}
            answer = self._as_applicant(wanted, "POST", f"{self._path(registration)}/appeal", body)
        elif action == "ask-renewal":
            answer = self._as_applicant(wanted, "POST", f"{self._path(registration)}/ask-renewal", None)
        elif action in ("grant-appeal", "deny-appeal"):
            body = {"granted": action == "grant-appeal", "reason": f"scenario: {action}"}
            answer = self._as_officer(f"{self._path(registration)}/answer-appeal", body)
        else:
            answer = self._as_officer(
                f"{self._path(registration)}/{action}", {"reason": f"scenario: {action}"}
            )
        return self._new_events(wanted, answer)

    def change_address(self, registration: str, prefixes: list[str]) -> list[dict[str, Any]]:
        """The applicant tells the registry of new addresses."""
        wanted = next(each for each in self._plan.registrations if each.name == registration)
        answer = self._as_applicant(
            wanted, "POST", f"{self._path(registration)}/change-address", {"subscriber_prefixes": prefixes}
        )
        return self._new_events(wanted, answer)

    def wait_for(
        self, action: str, registration: str, since_ns: int, timeout_s: float = 5.0
    ) -> list[dict[str, Any]]:
        """Wait until the registry by itself has done something to a registration, at since_ns (monotonic) or later.

        action: expire, remind, verify or refuse-verify. Returns the new ledger events as act() does; raises TimeoutError when it
        does not happen in time, and what act() raises.
        """
        wanted = next(each for each in self._plan.registrations if each.name == registration)
        deadline = time.monotonic() + timeout_s
        verified = {"verify": True, "refuse-verify": False}.get(action)
        does = "verify" if verified is not None else action
        found: list[dict[str, Any]] = []
        while True:
            answer = self._call(self._authority.node, "GET", self._path(registration), None, self._officer)
            found += self._new_events(wanted, answer)
            offset_ns = time.time_ns() - time.monotonic_ns()
            if any(
                (entry["action"], entry["actor"], entry.get("verified")) == (does, "system", verified)
                and entry["at_ns"] - offset_ns >= since_ns
                for entry in answer["history"]
            ):
                return found
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"the registry should have come to '{action}' of {registration} by itself, and did not within {timeout_s:.0f} s"
                )
            time.sleep(_LOOK_S)

    def history(self) -> list[dict[str, Any]]:
        """The seeded registrations as they stand, in the form act() returns."""
        records = []
        for registration in self._plan.registrations:
            if registration.name in self._numbers:
                answer = self._call(
                    self._authority.node, "GET", self._path(registration.name), None, self._officer
                )
                records += self._new_events(registration, answer)
        return records

    def stop(self) -> None:
        end_programs([self._process], patience_s=3.0)

    def _form(self, registration: Registration) -> dict[str, Any]:
        subscriber = next(each for each in self._plan.subscribers if each.name == registration.subscriber)
        return {
            "registrant": registration.subscriber,
            "subscriber_prefixes": list(registration.subscriber_prefixes),
            "endpoint_prefixes": list(registration.endpoint_prefixes),
            "endpoint_ports": list(registration.endpoint_ports),
            "protocols": list(registration.protocols),
            "category": registration.category
            or (subscriber.kind if subscriber.kind in CATEGORIES else "other"),
            "purpose": f"work over {registration.server}",
            "provider": subscriber.isp,
            "subscriber_id": subscriber.name,
        }

    def _path(self, registration: str) -> str:
        if registration not in self._numbers:
            raise HttpFailed(404, f"{registration} has not applied yet")
        return f"/applications/{self._numbers[registration]}"

    def _as_applicant(
        self, registration: Registration, method: str, path: str, body: Any, has_token: bool = True
    ) -> Any:
        subscriber = next(each for each in self._plan.subscribers if each.name == registration.subscriber)
        return self._call(
            subscriber.node, method, path, body, self._tokens[registration.name] if has_token else None
        )

    def _as_isp(self, registration: Registration, path: str, body: Any) -> Any:
        subscriber = next(each for each in self._plan.subscribers if each.name == registration.subscriber)
        isp = next(node for node in self._plan.nodes if node.name == subscriber.isp)
        source = isp.loopback4.split("/")[0] if isp.loopback4 else None
        return self._call(isp.name, "POST", path, body, self._isp, source)

    def _as_officer(self, path: str, body: Any) -> Any:
        return self._call(self._authority.node, "POST", path, body, self._officer)

    def _call(
        self, node: str, method: str, path: str, body: Any, token: str | None, source: str | None = None
    ) -> Any:
        return request_json(self._inside(node), self._address, method, path, body, token=token, source=source)

    @property
    def _address(self) -> tuple[str, int]:
        return self._authority.address4, self._authority.port

    def _inside(self, node: str) -> Callable[[], AbstractContextManager[None]]:
        return lambda: self._lab.inside(node)

    def _new_events(self, registration: Registration, answer: dict[str, Any]) -> list[dict[str, Any]]:
        """What the ledger has on this registration that was not returned before; the last one carries the state reached."""
        offset_ns = time.time_ns() - time.monotonic_ns()
        number = answer["registration"]
        with self._lock:
            seen = self._seen.get(number, 0)
            new = answer["history"][seen:]
            self._seen[number] = max(seen, len(answer["history"]))
        return [
            {
                "registration": registration.name,
                "number": number,
                "action": entry["action"],
                "actor": entry["actor"],
                "verified": entry.get("verified"),
                "reason": entry["reason"],
                "state": answer["state"] if entry is new[-1] else None,
                "serial": answer["serial"],
                "monotonic_ns": entry["at_ns"] - offset_ns,
            }
            for entry in new
        ]

    def _wait(self, timeout_s: float) -> int:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                queue = self._call(self._authority.node, "GET", "/queue", None, self._officer)
                key = (
                    request_bytes(self._inside(self._authority.node), self._address, "GET", "/feed/key")
                    .decode("ascii")
                    .strip()
                )
            except OSError as error:
                if self._process is not None and self._process.poll() is not None:
                    raise RegistryFailed(
                        f"the registry ended with exit code {self._process.returncode}; see logs/registry.log"
                    ) from error
                if time.monotonic() > deadline:
                    raise RegistryFailed(
                        f"the registry did not answer within {timeout_s:.0f} s: {error}"
                    ) from error
                time.sleep(0.02)
                continue
            self.key_file.write_text(key + "\n", encoding="ascii")
            return int(queue["serial"])
