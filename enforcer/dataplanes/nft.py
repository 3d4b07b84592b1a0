"""The nft dataplane: classification and allow maps in the kernel, table `inet allowlist`, forward hook, both families.

One map a shape (enforcer.cells) gives the registration, which becomes the flow's conntrack mark; marked flows pass without being
looked at again until their mark is in the set `cut`. Every change is one transaction.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator

from enforcer.allowlist import Allowlist, Delta, Entry
from enforcer.cells import Change, Index, PackedKey, Shape, changed_ends
from enforcer.dataplanes import (
    Count,
    DataplaneError,
    Stop,
    TableFull,
    conntrack,
    elements,
    nft_kernel,
    ruleset,
)
from enforcer.dataplanes.libnft import Nft
from enforcer.dataplanes.netlink import Netfilter
from enforcer.dataplanes.nflog import NfLog
from enforcer.decide import CLEAR, EXEMPT, JUDGED_AGAIN, REVOKED, UNJUDGED, Fallback, Lookup
from enforcer.policy import Policy

TABLE = f"inet {nft_kernel.TABLE}"
LOG_GROUP = 4747
MOST_CELLS = 2_000_000  # about 250 MB of kernel memory

_UNSETTLED = (UNJUDGED, EXEMPT, *JUDGED_AGAIN)  # marks of no registration, for the set `cut`
_LEAST_ROOM = 1024
_MANY = 8192  # marks in the set `cut`; its table stays in a processor's cache
_FEW = 8  # marks: so many listings sieved by the kernel cost less than one of everything


class NftDataplane:
    """In the network namespace it is made in. Raises DataplaneError when the kernel lacks something; see `shortcomings`."""

    name = "nft"

    def __init__(
        self,
        policy: Policy,
        log_group: int = LOG_GROUP,
        most_cells: int = MOST_CELLS,
        use_library: bool = True,
    ) -> None:
        self._policy = policy
        self._log_group = log_group
        self._most_cells = most_cells
        self._nft = Nft(use_library)
        self._netfilter = Netfilter()
        try:
            self._log = NfLog(log_group)
        except OSError as error:
            raise DataplaneError(
                f"cannot read NFLOG group {log_group}: {error.strerror}; another program reads it, or the kernel lacks "
                "CONFIG_NETFILTER_NETLINK_LOG"
            ) from error
        self._index = Index(policy.match)
        self._room: dict[Shape, int] = {}  # of the generation's maps, by shape
        self._cut_room = 0
        self._chains: dict[str, list[str]] = {}
        self._generation = ""
        self._fallback: Fallback = "keep"
        self._cut: set[int] = set()
        self._finishing: set[int] = set()

    @property
    def way(self) -> str:
        """How changes reach the kernel: "libnftables" or "nft program"."""
        return self._nft.way

    @property
    def lookup(self) -> Lookup:
        return self._index

    def load(self, allowlist: Allowlist) -> None:
        index, old = Index(self._policy.match, allowlist.entries.values()), self._index
        self._check_size(index)
        finishing = {number for number in self._finishing if number not in index.entries}
        ended = {number for number in old.entries if number not in index.entries}
        self._replace(index, ended | self._cut, finishing)
        changed = changed_ends(old, index)
        if changed:
            self._recheck(changed)

    def _replace(self, index: Index, cut: set[int], finishing: set[int]) -> None:
        """A new generation with this index in force instead of the old one; flows of these registrations are cut."""
        generation = f"{time.time_ns():x}"
        room = {shape: max(_LEAST_ROOM, 2 * len(table)) for shape, table in index.tables.items()}
        old_sets, old_chains = nft_kernel.set_names(self._netfilter), nft_kernel.chain_names(self._netfilter)
        maps = [ruleset.add_map(shape, generation, TABLE, most) for shape, most in room.items()]
        is_first, is_many = not self._generation, len(cut) > _MANY
        try:
            self._nft.run("\n".join([f"add table {TABLE}", *maps]))
            self._fill(index, generation)
            if is_first:  # what an earlier agent left
                cut = cut | self._live_marks()
            elif is_many:  # those without flows need not be in the kernel's set
                cut = cut & self._live_marks()
            cut = cut - index.entries.keys() - finishing
            cut_room = max(_MANY, len(_UNSETTLED) + 2 * len(cut))
            self._nft.run(ruleset.add_cut(generation, TABLE, cut_room))
            chains = ruleset.chains(self._policy, room, generation, self._fallback, self._log_group)
            self._nft.run("\n".join(self._switch(generation, chains, cut, finishing, old_chains)))
        except DataplaneError:
            self._drop_generation(generation)
            raise
        self._index, self._room, self._chains, self._generation = index, room, chains, generation
        self._cut, self._cut_room, self._finishing = cut, cut_room, finishing
        # Not in the same transaction: a packet on its way through the old rules asks the old sets with the generation that
        # counts by then, and would find nothing in sets that end with it (one packet in some hundred swaps).
        with contextlib.suppress(DataplaneError):  # what is left goes with the next generation
            self._nft.run("\n".join(map(_delete, _stale(old_sets, generation))))
        if is_first or is_many:  # flows that began after the kernel was asked for marks
            stopped = self._live_marks() - index.entries.keys() - cut - finishing
            for entry in self._tracked(stopped):
                conntrack.set_mark(self._netfilter, entry, REVOKED)

    def apply(self, delta: Delta) -> None:
        gone = {removal.registration for removal in delta.remove} & self._index.entries.keys()
        before = {entry.registration: self._index.entries.get(entry.registration) for entry in delta.add}
        removed = [self._index.entries[number] for number in gone]
        removed += [
            entry for entry in before.values() if entry is not None and entry.registration not in gone
        ]
        added = {entry.registration for entry in delta.add}
        ended = gone - added
        changes: list[Change] = []
        try:
            for entry in removed:
                changes += self._index.remove(entry.registration)
            for entry in delta.add:
                changes += self._index.add(entry)
            self._check_size(self._index)
            if self._has_room(len(ended) if self._policy.live_flows == "cut" else 0):
                self._nft.run("\n".join(self._commands(changes, ended, added)))
                self._remember(ended, added)
            elif self._policy.live_flows == "cut":
                self._replace(self._index, self._cut | ended, self._finishing - added)
            else:
                self._replace(self._index, set(self._cut), (self._finishing | ended) - added)
        except DataplaneError:
            self._undo(delta.add, removed)
            raise
        # A registration that has new ends may have live flows at its old ones.
        rechecked = added & (self._cut | self._finishing | {entry.registration for entry in removed})
        self._cut -= added
        self._finishing -= added
        if rechecked:
            self._recheck(rechecked)

    def revoke(self, registrations: Iterable[int]) -> None:
        ending = [number for number in registrations if number not in self._index.entries]
        if not ending or not self._generation:
            return
        finishing = [number for number in ending if number in self._finishing]
        if not self._has_room(len(ending)):
            self._replace(self._index, self._cut | set(ending), self._finishing - set(ending))
            return
        commands = [_elements("add", ruleset.cut_name(self._generation), ending)]
        if finishing:
            commands.append(_elements("delete", "finishing", finishing))
        self._nft.run("\n".join(commands))
        self._cut.update(ending)
        self._finishing.difference_update(finishing)

    def set_fallback(self, fallback: Fallback) -> None:
        if fallback == self._fallback:
            return
        self._fallback = fallback
        if self._chains:
            self._nft.run("\n".join(self._chain_changes(self._room)))
            self._adopt_chains(self._room)

    def beat(self) -> None:
        seconds = max(1, -(-self._policy.on_failure.agent_dead_after_ns // 1_000_000_000))
        both = "ipv4, ipv6"
        fresh = f"ipv4 timeout {seconds}s, ipv6 timeout {seconds}s"
        # Adding what is there does not lengthen its life, deleting what is not there fails: so add, delete, add.
        self._nft.run(
            f"add element {TABLE} alive {{ {fresh} }}\ndelete element {TABLE} alive {{ {both} }}\n"
            f"add element {TABLE} alive {{ {fresh} }}"
        )

    def sweep(self) -> int:
        """The flows keep an entry whose mark stops them: were it deleted, the flow's next packet would begin a new one, and in
        the middle of a flow at an undocumented port, or from its server, nothing shows what it is. It ends when they do."""
        swept = 0
        marks = set(self._cut)
        for entry in self._tracked(marks):
            swept += conntrack.set_mark(self._netfilter, entry, REVOKED)
        if marks:
            self._nft.run(_elements("delete", ruleset.cut_name(self._generation), sorted(marks)))
            self._cut -= marks
        return swept

    def counters(self) -> dict[str, Count]:
        return nft_kernel.counters(self._netfilter)

    def is_alive(self) -> bool:
        return self._chains.keys() <= set(nft_kernel.chain_names(self._netfilter))

    def fileno(self) -> int:
        return self._log.fileno()

    def events(self) -> list[Stop]:
        return self._log.read()

    def lost_events(self) -> int:
        return self._log.lost

    def close(self, remove: bool = False) -> None:
        if remove:
            self._nft.run(f"add table {TABLE}\ndelete table {TABLE}")
        self._log.close()
        self._netfilter.close()
        self._nft.close()

    def _fill(self, index: Index, generation: str) -> None:
        """Every cell into the maps of a generation that is not in force yet."""
        for shape, table in index.tables.items():
            name = ruleset.map_name(shape, generation)
            if elements.can_load(shape):
                elements.add_elements("allowlist", name, shape, table)
                continue
            items = ((key, held if isinstance(held, int) else held[0]) for key, held in table.items())
            texts = [f"{ruleset.element_key(shape, key)} : {number}" for key, number in items]
            self._nft.run(f"add element {TABLE} {name} {{ {', '.join(texts)} }}")

    def _check_size(self, index: Index) -> None:
        if index.count() > self._most_cells:
            raise TableFull(
                f"the allowlist has {index.count()} cells; this dataplane takes at most {self._most_cells}"
            )

    def _has_room(self, marks: int) -> bool:
        """Whether the index, as it is now, and so many marks more to cut go into the sets of this generation."""
        return len(_UNSETTLED) + len(self._cut) + marks <= self._cut_room and all(
            len(table) <= self._room.get(shape, len(table)) for shape, table in self._index.tables.items()
        )

    def _switch(
        self,
        generation: str,
        chains: dict[str, list[str]],
        cut: set[int],
        finishing: set[int],
        old_chains: Iterable[str],
    ) -> Iterator[str]:
        """The transaction that makes a loaded generation the one in force."""
        yield from ruleset.objects(self._policy, TABLE)
        yield ruleset.base_chain(TABLE)
        for chain in chains:
            yield f"add chain {TABLE} {chain}"
        for chain in {*old_chains, *chains}:
            yield f"flush chain {TABLE} {chain}"
        yield f"flush set {TABLE} finishing"
        yield _elements("add", ruleset.cut_name(generation), [*_UNSETTLED, *cut])
        if finishing:
            yield _elements("add", "finishing", finishing)
        for chain, rules in chains.items():
            for rule in rules:
                yield f"add rule {TABLE} {chain} {rule}"
        for chain in old_chains:
            if chain not in chains:
                yield f"delete chain {TABLE} {chain}"

    def _commands(self, changes: list[Change], ended: set[int], added: set[int]) -> Iterator[str]:
        """One delta as a transaction."""
        final: dict[tuple[Shape, PackedKey], tuple[int | None, int | None]] = {}
        for change in changes:
            first = final.get((change.shape, change.key), (change.before, None))[0]
            final[change.shape, change.key] = (first, change.after)
        new = self._new_room()
        for shape, room in new.items():
            yield ruleset.add_map(shape, self._generation, TABLE, room)
        deletes: dict[Shape, list[str]] = {}
        adds: dict[Shape, list[str]] = {}
        for (shape, key), (before, after) in final.items():
            if before == after:
                continue
            element = ruleset.element_key(shape, key)
            if before is not None:
                deletes.setdefault(shape, []).append(f"{element} : {before}")
            if after is not None:
                adds.setdefault(shape, []).append(f"{element} : {after}")
        for verb, batches in (("delete", deletes), ("add", adds)):
            for shape, texts in batches.items():
                name = ruleset.map_name(shape, self._generation)
                yield f"{verb} element {TABLE} {name} {{ {', '.join(texts)} }}"
        if new:
            yield from self._chain_changes(self._room | new)
        cut = ruleset.cut_name(self._generation)
        if ended:
            yield _elements("add", cut if self._policy.live_flows == "cut" else "finishing", ended)
        for name, held in ((cut, self._cut), ("finishing", self._finishing)):
            if held & added:
                yield _elements("delete", name, held & added)

    def _new_room(self) -> dict[Shape, int]:
        """Room for shapes of the index that have no map yet."""
        tables = self._index.tables
        return {
            shape: max(_LEAST_ROOM, 2 * len(tables[shape])) for shape in tables if shape not in self._room
        }

    def _remember(self, ended: set[int], added: set[int]) -> None:
        new = self._new_room()
        if new:
            self._room |= new
            self._adopt_chains(self._room)
        (self._cut if self._policy.live_flows == "cut" else self._finishing).update(ended)

    def _chain_changes(self, shapes: Iterable[Shape]) -> Iterator[str]:
        chains = ruleset.chains(self._policy, shapes, self._generation, self._fallback, self._log_group)
        for chain, rules in chains.items():
            if rules != self._chains.get(chain):
                yield f"flush chain {TABLE} {chain}"
                for rule in rules:
                    yield f"add rule {TABLE} {chain} {rule}"

    def _adopt_chains(self, shapes: Iterable[Shape]) -> None:
        self._chains = ruleset.chains(self._policy, shapes, self._generation, self._fallback, self._log_group)

    def _undo(self, added: Iterable[Entry], removed: Iterable[Entry]) -> None:
        for entry in added:
            self._index.remove(entry.registration)
        for entry in removed:
            self._index.add(entry)

    def _drop_generation(self, generation: str) -> None:
        """Take away the sets of a load that failed; what was in force before still is."""
        doomed = [name for name in nft_kernel.set_names(self._netfilter) if name.endswith(f".{generation}")]
        if doomed:
            self._nft.run("\n".join(map(_delete, doomed)))

    def _recheck(self, numbers: set[int]) -> None:
        """Stop live flows of these registrations that their entries no longer cover."""
        for entry in self._tracked(numbers):
            if not conntrack.names_ends(self._index.entries[entry.mark], self._policy.match, entry):
                conntrack.set_mark(self._netfilter, entry, REVOKED)

    def _tracked(self, marks: set[int]) -> list[conntrack.Tracked]:
        if not marks:
            return []
        if len(marks) <= _FEW:
            return [entry for mark in marks for entry in conntrack.tracked(self._netfilter, mark)]
        return [entry for entry in conntrack.tracked(self._netfilter) if entry.mark in marks]

    def _live_marks(self) -> set[int]:
        """Registrations that have live flows."""
        return {entry.mark for entry in conntrack.tracked(self._netfilter) if entry.mark < CLEAR}


def _elements(verb: str, name: str, marks: Iterable[int]) -> str:
    return f"{verb} element {TABLE} {name} {{ {', '.join(f'{mark:#x}' for mark in marks)} }}"


def _delete(name: str) -> str:
    return f"delete {'set' if name.startswith('cut.') else 'map'} {TABLE} {name}"


def _stale(names: Iterable[str], generation: str) -> list[str]:
    """Maps of other generations: their names end in ".GENERATION"."""
    return [name for name in names if "." in name and not name.endswith(f".{generation}")]
