"""Faults: one module per kind, each a context manager that begins on entry and heals on leaving, however it is left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from testbed.faults.allowlist_ignored import allowlist_ignored
from testbed.faults.enforcer_crash import enforcer_crash
from testbed.faults.kinds import KINDS
from testbed.faults.link_degrade import link_degrade
from testbed.faults.link_down import link_down
from testbed.faults.registry_unreachable import registry_unreachable
from testbed.faults.site import Site

__all__ = ["KINDS", "Fault", "Site", "begin"]

_STRIKE: dict[str, Callable[[Site, str, Mapping[str, Any]], AbstractContextManager[None]]] = {
    "allowlist-ignored": allowlist_ignored,
    "link-down": link_down,
    "link-degrade": link_degrade,
    "registry-unreachable": registry_unreachable,
    "enforcer-crash": enforcer_crash,
}


class Fault(contextlib.AbstractContextManager["Fault"]):
    """A fault that has begun. end() heals it, each place even if another refuses, and may be called again."""

    def __init__(self, healing: ExitStack) -> None:
        self._healing = healing

    def end(self) -> None:
        """Heal everywhere. Raises RuntimeError or OSError, after trying all places, when one could not be healed."""
        self._healing.close()

    def __exit__(self, *_exc: object) -> None:
        self.end()


def begin(site: Site, args: Mapping[str, Any]) -> Fault:
    """Strike each of args["at"] with args["kind"] (an Event's args, see testbed.faults.kinds).

    Raises ValueError for an unknown kind or place, RuntimeError or OSError when it cannot be made; what was already
    struck is healed then.
    """
    kind = args["kind"]
    if kind not in _STRIKE:
        raise ValueError(f"no such fault: '{kind}'; known are {', '.join(_STRIKE)}")
    arguments = {name: value for name, value in args.items() if name not in ("kind", "at", "until_ns")}
    unknown = sorted(set(arguments) - set(KINDS[kind].arguments))
    if unknown:
        raise ValueError(f"fault {kind} takes no {', '.join(unknown)}")
    with ExitStack() as stack:
        for place in args["at"]:
            stack.enter_context(_STRIKE[kind](site, place, arguments))
        return Fault(stack.pop_all())
