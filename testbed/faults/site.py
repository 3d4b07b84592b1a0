"""What faults strike: the running lab, its links and its enforcers."""

from __future__ import annotations

import subprocess
from contextlib import AbstractContextManager
from typing import Any, Protocol

from testbed.plan.plan import Plan


class FaultLab(Protocol):
    """The part of testbed.lab.build.Lab that faults use."""

    @property
    def plan(self) -> Plan: ...

    def inside(self, node: str) -> AbstractContextManager[None]: ...

    def cmd(self, node: str, argv: list[str], timeout_s: float = 10) -> subprocess.CompletedProcess[str]: ...

    def link_down(self, link: str) -> None: ...

    def link_up(self, link: str) -> None: ...


class FaultLinks(Protocol):
    """The part of testbed.lab.links.Links that faults use."""

    def shape(self, link: str, direction: Any, /) -> Any: ...

    def change(
        self,
        link_name: str,
        *,
        delay_ns: int | None = None,
        jitter_ns: int | None = None,
        loss_ratio: float | None = None,
        rate_bps: int | None = None,
        direction: Any = None,
    ) -> None: ...


class FaultEnforcers(Protocol):
    """The part of testbed.timeline.enforcers.Enforcers that faults use."""

    def kill(self, node: str) -> None: ...

    def restart(self, node: str) -> None: ...


class Site(Protocol):
    """A stage (testbed.timeline.stage). enforcers is None when the plan has none."""

    @property
    def lab(self) -> FaultLab: ...

    @property
    def links(self) -> FaultLinks: ...

    @property
    def enforcers(self) -> FaultEnforcers | None: ...


def run(lab: FaultLab, node: str, argv: list[str]) -> str:
    """A program's output. Raises RuntimeError with what it said when it fails."""
    done = lab.cmd(node, argv)
    if done.returncode != 0:
        raise RuntimeError(f"{node}: {' '.join(argv)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def link_named(site: Site, name: str) -> None:
    """Raises ValueError when the plan has no such link."""
    if not any(link.name == name for link in site.lab.plan.links):
        raise ValueError(f"there is no link '{name}' to strike")


def enforcers_at(site: Site, node: str) -> FaultEnforcers:
    """The enforcers. Raises ValueError when none runs on the node."""
    if site.enforcers is None or not any(each.node == node for each in site.lab.plan.enforcers):
        raise ValueError(
            f"no enforcer runs on '{node}'; name a node that carries one, in a scenario with a policy"
        )
    return site.enforcers
