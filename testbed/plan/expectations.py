"""What a scenario expects, and whether it can be: a figure over attempts nobody makes is a mistake, not a pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args

from enforcer.units import UnitError, render_duration
from testbed.plan.figures import FIGURES, OUTCOMES, Figure, parse_bound
from testbed.plan.official import Histories
from testbed.plan.people import Resolving
from testbed.plan.plan import Bulk, Expectation, Stream, SubscriberKind
from testbed.plan.rest import groups
from testbed.plan.scenario_file import ExpectationFile

_COMPARATORS: dict[str, Literal["at_most", "at_least", "equals"]] = {
    "at-most": "at_most",
    "at-least": "at_least",
    "equals": "equals",
}


def resolve_expectations(
    resolving: Resolving,
    files: list[ExpectationFile],
    streams: tuple[Stream, ...],
    bulk: tuple[Bulk, ...],
    histories: Histories,
    file_name: str,
) -> tuple[Expectation, ...]:
    """The expectations that are possible; notes a problem for each of the others."""
    found = []
    is_sound = resolving.is_sound("registrations", "tunnels", "traffic", "bulk", "timeline")
    for index, file in enumerate(files):
        expectation = _expectation(resolving, file, index, file_name)
        where = _where(resolving, file, streams, bulk)
        if expectation is None or where is None:
            continue
        if not is_sound:  # what is wrong there may be why this seems impossible
            continue
        _check_possible(resolving, file, expectation, _Chosen(resolving, where, streams, bulk, histories))
        found.append(replace(expectation, where=where))
    return tuple(found)


class _Chosen:
    """What an expectation's `where` selects."""

    def __init__(
        self,
        resolving: Resolving,
        where: dict[str, list[str]],
        streams: tuple[Stream, ...],
        bulk: tuple[Bulk, ...],
        histories: Histories,
    ) -> None:
        self.histories = histories
        self._all = list(resolving.registrations.values())
        self.streams = [stream for stream in streams if self._fits(resolving, where, stream)]
        people = {name for name in resolving.subscribers if _is_person(resolving, where, name)}
        servers = where.get("server")
        self.bulk = [phase for phase in bulk if phase.subscriber in people]
        self.registrations = [
            item.name
            for item in resolving.registrations.values()
            if item.subscriber in people and (servers is None or item.server in servers)
        ]

    def rights(self, stream: Stream) -> list[str]:
        """The registrations that entitle to it: its own, and those of licensed providers for its server."""
        server = (stream.registration or "").partition("/")[2]
        licences = [item.name for item in self._all if item.category == "provider" and item.server == server]
        return [*([stream.registration] if stream.registration else []), *licences]

    def attempts(self, from_ns: int, until_ns: int) -> int:
        return sum(1 for stream in self.streams for at in stream.at_ns if from_ns <= at < until_ns)

    def _fits(self, resolving: Resolving, where: dict[str, list[str]], stream: Stream) -> bool:
        server = stream.registration.partition("/")[2] if stream.registration else stream.target
        own = {"stream": stream.name, "group": stream.group, "protocol": stream.protocol, "server": server}
        return _is_person(resolving, where, stream.subscriber) and all(
            value in where[key] for key, value in own.items() if key in where
        )


def _is_person(resolving: Resolving, where: dict[str, list[str]], name: str) -> bool:
    subscriber = resolving.subscribers[name]
    own = {"subscriber": name, "kind": subscriber.kind, "isp": subscriber.isp}
    return all(value in where[key] for key, value in own.items() if key in where)


def _expectation(
    resolving: Resolving, file: ExpectationFile, index: int, file_name: str
) -> Expectation | None:
    figure = FIGURES[file.figure]
    if figure.needs_real_time and resolving.scenario.clock == "virtual":
        what = f"{file.figure} says nothing in virtual time, where processors are infinitely fast"
        resolving.add((*file.place, "figure"), what, "remove it, or 'clock: virtual'")
        return None
    until_ns = resolving.duration_ns if file.until is None else file.until
    if until_ns > resolving.duration_ns:
        end = render_duration(resolving.duration_ns)
        resolving.add((*file.place, "until"), "it lies past the end", f"write at most '{end}'")
        return None
    if file.from_ >= until_ns:
        key = "from" if file.until is None else "until"
        resolving.add((*file.place, key), "the window is empty", "write an 'until' that is after 'from'")
        return None
    given = {key: getattr(file, key.replace("-", "_")) for key in _COMPARATORS}
    given = {key: value for key, value in given.items() if value is not None}
    if not given and not file.is_whole:
        return None
    if len(given) != 1:
        what = "nothing is expected of it" if not given else "there are several bounds"
        resolving.add(file.place, what, "write one of at-most, at-least, equals")
        return None
    [(comparator, value)] = given.items()
    bound = _bound(resolving, file, figure, comparator, value)
    name = file.figure
    if file.figure == "outcome_count":
        if file.outcome is None:
            resolving.add(file.place, "outcome_count names no outcome", f"add 'outcome: {OUTCOMES[0]}'")
            return None
        if not resolving.known((*file.place, "outcome"), file.outcome, OUTCOMES, "an outcome"):
            return None
        name = f"outcome_count:{file.outcome}"
    elif file.outcome is not None:
        resolving.add((*file.place, "outcome"), "only outcome_count has an outcome", "remove it", True)
    if bound is None:
        return None
    line, column = resolving.document.position(file.place)
    return Expectation(
        name=f"{index + 1}:{name}",
        figure=name,
        where={},
        from_ns=file.from_,
        until_ns=until_ns,
        comparator=_COMPARATORS[comparator],
        bound=bound,
        file=file_name,
        line=line,
        column=column,
    )


def _bound(
    resolving: Resolving, file: ExpectationFile, figure: Figure, comparator: str, value: Any
) -> float | str | None:
    where = (*file.place, comparator)
    try:
        bound = parse_bound(figure, value)
    except UnitError as error:
        resolving.add(where, error.what, error.fix)
        return None
    if figure.unit == "word" and comparator != "equals":
        resolving.add(where, f"{file.figure} is a word", "write 'equals:'", True)
        return None
    nothing_to_fail = (figure.unit == "ratio" and comparator == "at-most" and bound == 1) or (
        comparator == "at-least" and bound == 0
    )
    if nothing_to_fail:
        resolving.add(where, "this cannot fail", "write a bound that a broken run would miss")
    return bound


def _where(
    resolving: Resolving, file: ExpectationFile, streams: tuple[Stream, ...], bulk: tuple[Bulk, ...]
) -> dict[str, list[str]] | None:
    place = (*file.place, "where")
    known = {
        "subscriber": (list(resolving.subscribers), "a subscriber"),
        "kind": (list(get_args(SubscriberKind)), "a kind of subscriber"),
        "isp": ([node.name for node in resolving.network.nodes if node.kind == "isp"], "an ISP"),
        "stream": ([stream.name for stream in streams], "a stream"),
        "group": (groups(resolving), "a group of traffic"),
        "protocol": (sorted({stream.protocol for stream in streams}), "a protocol of any traffic here"),
        "server": (list({**resolving.endpoints, **resolving.services}), "a server"),
    }
    where: dict[str, list[str]] = {}
    for key, (names, what) in known.items():
        wanted = getattr(file.where, key)
        if wanted is None:
            continue
        is_misspelled = key == "group" and not names and not resolving.is_sound("traffic")
        if is_misspelled or (key in ("stream", "protocol") and not resolving.is_sound("traffic", "tunnels")):
            where[key] = wanted  # there may be more than those that are right
            continue
        where[key] = resolving.names((*place, key), wanted, names, what)
        if len(where[key]) != len(wanted):
            return None
    return where


def _check_possible(
    resolving: Resolving, file: ExpectationFile, expectation: Expectation, chosen: _Chosen
) -> None:
    figure = FIGURES[file.figure]
    from_ns, until_ns = expectation.from_ns, expectation.until_ns
    place = (*file.place, "where") if (*file.place, "where") in resolving.document.values else file.place
    histories = chosen.histories
    if figure.of == "attempts":
        count = chosen.attempts(from_ns, until_ns)
        if count < figure.least:
            what = (
                "nobody makes such an attempt"
                if count == 0
                else f"{file.figure} needs {figure.least} attempts, here are {count}"
            )
            resolving.add(
                place, f"{what} between {_window(expectation)}", "widen 'where' or the window, or add traffic"
            )
            return
    needed = {
        "bulk": (
            "no bulk phase lies in the window",
            [p for p in chosen.bulk if from_ns <= p.start_ns and p.start_ns + p.duration_ns <= until_ns],
        ),
        "tunnels": ("nobody sends through a tunnel", [s for s in chosen.streams if s.probe == "tunnel-echo"]),
        "registrations": ("none of them has a registration", chosen.registrations),
        "approvals": ("none of them is approved", _changes(chosen, histories.moments)),
        "revocations": ("none of them is revoked or suspended", _changes(chosen, histories.leaves)),
    }.get(figure.of)
    if needed and not needed[1]:
        resolving.add(place, needed[0], "widen 'where' or the window, or add what is missing")
    if file.figure == "false_pass_ratio" and not any(
        stream.registration
        and all(histories.ever(name, "active", is_state=False) for name in chosen.rights(stream))
        for stream in chosen.streams
    ):
        resolving.add(
            place,
            "all of them are entitled all the time",
            "select somebody who is not, or expect false_block_ratio",
        )
    if file.figure == "false_block_ratio" and not any(
        stream.registration is None or any(histories.ever(name, "active") for name in chosen.rights(stream))
        for stream in chosen.streams
    ):
        resolving.add(
            place, "none of them is ever entitled", "select somebody who is, or expect false_pass_ratio"
        )


def _changes(chosen: _Chosen, when: Any) -> list[int]:
    used = {stream.registration for stream in chosen.streams}
    return [at for name in chosen.registrations if name in used for at in when(name, "active")]


def _window(expectation: Expectation) -> str:
    return f"{render_duration(expectation.from_ns)} and {render_duration(expectation.until_ns)}"
