"""`enforcer replay`: what a policy and an allowlist would have done to a capture or a flow log."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enforcer.allowlist import Entry
from enforcer.mistake import Mistake
from enforcer.yamlfile import FileError, Problem

if TYPE_CHECKING:
    from enforcer.replay.result import Result
    from enforcer.replay.source import Source

_PATH = click.Path(path_type=Path)


class Unfinished(click.ClickException):
    """The replay could not be made as asked."""

    exit_code = 3


@click.command(short_help="Say what a policy would have stopped of a recording.")
@click.argument("recording", metavar="CAPTURE|FLOWLOG", type=_PATH)
@click.option("--policy", "policy_file", required=True, type=_PATH, help="the policy to try")
@click.option(
    "--allowlist",
    "allowlist_file",
    required=True,
    type=_PATH,
    help="a feed snapshot, signed or not, or JSON lines of entries",
)
@click.option(
    "--against", "against_file", type=_PATH, help="a second policy: both verdicts, and what changes for whom"
)
@click.option(
    "--against-allowlist", type=_PATH, help="another allowlist for the second policy (default: the same)"
)
@click.option("--at", help="judge as of this moment (2024-11-10T16:00:00Z) instead of each flow's own")
@click.option(
    "--map",
    "map_text",
    help="columns of a flow log: start=COLUMN[@s|ms|us|ns],src=…,dst=…,proto=…,src-port=…,dst-port=…",
)
@click.option("--map-file", type=_PATH, help="the same as a YAML file")
@click.option(
    "--direction",
    type=click.Choice(["either", "opener"]),
    help="a flow log's line is either direction (default), or always as its opener saw it (default with columns for the way back)",
)
@click.option("--inside", multiple=True, help="a prefix of the subscribers' side; may be given several times")
@click.option("--time-zone", default="UTC", show_default=True, help="of times in a flow log that name none")
@click.option("--top", default=10, show_default=True, type=click.IntRange(0), help="how long the lists are")
@click.option(
    "--most-flows",
    default=500_000,
    show_default=True,
    type=click.IntRange(100),
    help="captures: flows kept in memory",
)
@click.option("--json", "as_json", is_flag=True, help="as one JSON object; see docs/replay.md")
def replay(**options: Any) -> None:
    """Say which flows of a capture (pcap, pcapng) or a flow log (nfdump CSV, other CSV, Parquet; .gz, .zst) a policy would have
    stopped, why, and whose they were. Nothing is sent and nothing is enforced.

    Exit codes: 0 read and judged, 2 a mistake in a file or option, 3 damaged input (what could be read is reported) or a verdict
    that is not decide's, 130 interrupted (what was read is reported).
    """
    try:
        import numpy  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise Unfinished(
            f"enforcer replay needs numpy and pyarrow, and {error.name} is not installed: {sys.executable} -m pip install numpy pyarrow"
        ) from error
    try:
        code = _replay(**options)
    except (FileError, ValueError, OSError) as error:
        raise Mistake(error) from error
    sys.exit(code)


def _replay(
    recording: Path,
    policy_file: Path,
    allowlist_file: Path,
    against_file: Path | None,
    against_allowlist: Path | None,
    at: str | None,
    top: int,
    as_json: bool,
    **rest: Any,
) -> int:
    from enforcer.difference.source import read_policy, without_collecting
    from enforcer.replay.replay_log import Mismatch
    from enforcer.replay.report import report
    from enforcer.replay.result import Result, Side
    from enforcer.replay.source import open_recording
    from enforcer.replay.text import render

    if against_allowlist and not against_file:
        raise Mistake("--against-allowlist needs --against POLICY")
    policies, files = [policy_file], [allowlist_file]
    if against_file:
        policies.append(against_file)
        files.append(against_allowlist or allowlist_file)
    tried = _Tried()
    read = [tried(read_policy, path) for path in policies]
    loaded = {path: tried(load_allowlist, path) for path in dict.fromkeys(files)}
    source = tried(open_recording, recording)
    tried.end()
    sides = [Side(policy, str(path)) for policy, path in zip(read, policies, strict=True)]
    allowlists = [
        {"file": str(path), "serial": loaded[path][0], "entries": len(loaded[path][1])} for path in files
    ]
    try:
        result = Result(str(recording), source.kind(), sides)
        result.at_ns = _unix_ns(at) if at else None
        begun = time.perf_counter()
        ends = _read(source, result, [loaded[path][1] for path in files], **rest)
        result.took_s = time.perf_counter() - begun
        result.read_ratio = source.progress()
    except Mismatch as error:
        raise Unfinished(str(error)) from error
    finally:
        source.close()
    with without_collecting():
        data = report(result, ends, allowlists, top)
    click.echo(json.dumps(data, indent=2) if as_json else render(data))
    if result.is_interrupted:
        return 130
    return 3 if result.damages.count else 0


def _read(
    source: Source,
    result: Result,
    entries: list[list[Entry]],
    map_text: str | None,
    map_file: Path | None,
    direction: str | None,
    inside: tuple[str, ...],
    time_zone: str,
    most_flows: int,
) -> Any:
    """Read and judge everything; an interruption ends it early. Returns what knows the ends (orient.Ends)."""
    from enforcer.replay.frames import frames
    from enforcer.replay.logs import Log
    from enforcer.replay.mapping import load_mapping, parse_mapping
    from enforcer.replay.memory import keep_freed
    from enforcer.replay.replay_capture import CaptureReplay
    from enforcer.replay.replay_log import LogReplay

    if map_text and map_file:
        raise Mistake("write --map or --map-file, not both")
    _check_prefixes(inside)
    keep_freed()
    shown = _Progress(source, result)
    if result.format in ("pcap", "pcapng"):
        given = [
            name
            for name, value in (("--map", map_text), ("--map-file", map_file), ("--direction", direction))
            if value
        ]
        if given:
            raise Mistake(f"{given[0]} is for flow logs, and {source.path} is a capture")
        capture = CaptureReplay(result, list(entries), inside, most_flows)
        try:
            capture.run(frames(source, result.damages), shown.tick)
        except KeyboardInterrupt:
            result.is_interrupted = True
        capture.finish()
        shown.end()
        return capture.ends
    mapping = load_mapping(map_file) if map_file else parse_mapping(map_text) if map_text else None
    log = Log(source, mapping, result.at_ns is not None, _zone(time_zone))
    result.format, result.damages = log.mapping.name, log.damages
    chosen = direction or ("opener" if log.mapping.is_biflow else "either")
    judging = LogReplay(result, list(entries), chosen, inside)  # type: ignore[arg-type]
    try:
        for lines in log.lines():
            judging.add(lines)
            shown.tick()
    except KeyboardInterrupt:
        result.is_interrupted = True
    result.notes += log.notes
    shown.end()
    return judging.ends


def load_allowlist(path: Path) -> tuple[int, list[Entry]]:
    """Serial (0 when the file does not say) and entries of a feed snapshot, signed or not, or of JSON lines. Raises FileError."""
    from enforcer.difference.source import read_allowlist

    listed = read_allowlist(path)
    return listed.serial or 0, list(listed.entries.values())


class _Tried:
    """Reads files, and keeps their problems until all were read."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []

    def __call__(self, reader: Callable[[Path], Any], path: Path) -> Any:
        try:
            return reader(path)
        except FileError as error:
            self._problems += [each for each in error.problems if each not in self._problems]

    def end(self) -> None:
        """Raises FileError when there were any."""
        if self._problems:
            raise FileError(self._problems)


def _unix_ns(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"--at: {text!r} is not a time; write 2024-11-10T16:00:00Z") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * 1_000_000_000


def _zone(name: str) -> str:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"--time-zone: {name!r} is no time zone; write one like Asia/Karachi") from error
    return name


def _check_prefixes(texts: tuple[str, ...]) -> None:
    from ipaddress import ip_network

    for text in texts:
        try:
            ip_network(text)
        except ValueError as error:
            raise ValueError(
                f"--inside: {text!r} is no prefix ({error}); write one like 203.0.113.0/24"
            ) from error


class _Progress:
    """One line on a terminal's standard error, at most ten times a second, and none for what takes less than a second."""

    def __init__(self, source: Source, result: Result) -> None:
        self._source, self._result = source, result
        self._begun = self._last = time.monotonic()
        self._is_shown = False
        self._is_wanted = sys.stderr.isatty()

    def tick(self) -> None:
        now = time.monotonic()
        if not self._is_wanted or now - self._begun < 1 or now - self._last < 0.1:
            return
        self._last, self._is_shown = now, True
        share = self._source.progress()
        left = (now - self._begun) * (1 - share) / share if share > 0.01 else None
        flows = f", {self._result.seen[0]:,} flows" if self._result.seen[0] else ""
        more = f", {left:.0f} s to go" if left is not None else ""
        click.echo(
            f"\r{100 * share:3.0f} % of {self._source.path.name}{flows}{more}\033[K", err=True, nl=False
        )

    def end(self) -> None:
        if self._is_shown:
            click.echo("\r\033[K", err=True, nl=False)
