"""A list on its way: in the kernel beside the one in force, where no packet asks for it yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from enforcer.cells import Index


@dataclass(slots=True)
class Staged:
    """What `Dataplane.stage` makes. Give it to `load`, then close it; or only close it, and it is as if it had never been.

    differing: registrations that the list in force has otherwise, or that this one lacks; `since` those that changed after that was
    looked at. close() gives back what is not in force, which takes its time and may run in a thread.
    """

    index: Index
    differing: set[int]
    give_back: Callable[[], None]
    since: set[int] = field(default_factory=set)

    def close(self) -> None:
        give_back, self.give_back = self.give_back, _nothing
        give_back()

    def ended(self) -> set[int]:
        """Registrations that may have been in force and are not in this list."""
        return (self.differing | self.since) - self.index.entries.keys()

    def changed(self, old: Index) -> set[int]:
        """Registrations that are in both, with other ends."""
        kept = (self.differing | self.since) & self.index.entries.keys() & old.entries.keys()
        return {number for number in kept if old.entries[number] != self.index.entries[number]}


def differing(old: Index, new: Index) -> set[int]:
    """Registrations of the old list that the new one lacks or has with another entry. The old one may change meanwhile."""
    found = set()
    there = new.entries
    for number, entry in list(old.entries.items()):
        now = there.get(number)
        if now is not entry and now != entry:
            found.add(number)
    return found


def _nothing() -> None:
    pass
