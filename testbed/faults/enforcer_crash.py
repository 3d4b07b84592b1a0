"""The enforcer's process dies (SIGKILL) and is started again: what it left in the kernel stays meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from testbed.faults.site import Site, enforcers_at


@contextmanager
def enforcer_crash(site: Site, node: str, _arguments: Mapping[str, Any]) -> Iterator[None]:
    """Healed means started again; the enforcer says itself when it enforces."""
    enforcers = enforcers_at(site, node)
    try:
        enforcers.kill(node)
        yield
    finally:
        enforcers.restart(node)
