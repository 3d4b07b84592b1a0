"""Which column of a flow log is what: nfdump's own headers, ours, or a mapping that somebody writes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from enforcer.filemodel import FileModel, validate
from enforcer.yamlfile import FileError, read

Unit = Literal["s", "ms", "us", "ns"]
FIELDS = (
    "start",
    "src",
    "dst",
    "proto",
    "src-port",
    "dst-port",
    "packets",
    "bytes",
    "packets-back",
    "bytes-back",
)
_NEEDED = ("start", "src", "dst", "proto", "src-port", "dst-port")
_UNITS_NS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}


@dataclass(frozen=True, slots=True)
class Mapping:
    """name: which log format this is, for the report. columns: field to column. unit_ns: of a start that is a number.

    is_local: times without a zone are the collector's local time. is_biflow: one line is both directions, as its opener saw it.
    """

    name: str
    columns: dict[str, str]
    unit_ns: int | None = None
    is_local: bool = True

    @property
    def is_biflow(self) -> bool:
        return "packets-back" in self.columns or "bytes-back" in self.columns


# nfdump 1.6 to 1.7.4 (nfdump(1), output csv); 1.7.5 on (output_csv.c, default %ts,%td,%pr,%sa,%sp,%da,%dp,%pkt,%byt,%fl); its
# csv-fast (output_csv_fast.c). opkt and obyt of 1.6 are the way back; the exporter fills them only for biflows.
KNOWN = (
    Mapping(
        "nfdump 1.6 CSV",
        {
            "start": "ts",
            "src": "sa",
            "dst": "da",
            "proto": "pr",
            "src-port": "sp",
            "dst-port": "dp",
            "packets": "ipkt",
            "bytes": "ibyt",
        },
    ),
    Mapping(
        "nfdump 1.7 CSV",
        {
            "start": "firstSeen",
            "src": "srcAddr",
            "dst": "dstAddr",
            "proto": "proto",
            "src-port": "srcPort",
            "dst-port": "dstPort",
            "packets": "packets",
            "bytes": "bytes",
        },
    ),
    Mapping("flow log", {name: name for name in FIELDS if not name.endswith("-back")}),
)


class MappingFile(FileModel):
    start: str | None = None
    """When the flow began; leave it out with --at."""
    unit: Unit | None = None
    """Of a start that is a number: s, ms, us or ns since 1970."""
    src: str
    """The address the line's packets came from."""
    dst: str
    """The address they went to."""
    proto: str
    """IP protocol: its number or its name."""
    src_port: str
    """Port at src; empty without one."""
    dst_port: str
    """Port at dst; empty without one."""
    packets: str | None = None
    """Packets of the line; each line counts as one packet without it."""
    bytes: str | None = None
    """Bytes of the line, from the IP header on."""
    packets_back: str | None = None
    """Packets of the way back: one line is then both directions, src the one that opened the flow (RFC 5103)."""
    bytes_back: str | None = None
    """Bytes of the way back."""


def load_mapping(path: Path) -> Mapping:
    """A mapping file (docs/replay.md). Raises FileError with every problem."""
    document = read(path)
    model = validate(document, MappingFile)
    if model is None or document.problems:
        raise FileError(document.problems)
    columns = {name: getattr(model, name.replace("-", "_")) for name in FIELDS}
    return Mapping(
        f"flow log by {path.name}",
        {name: value for name, value in columns.items() if value is not None},
        _UNITS_NS[model.unit] if model.unit else None,
    )


def parse_mapping(text: str) -> Mapping:
    """--map "start=ts@ms,src=source,…". Raises ValueError with every problem."""
    columns: dict[str, str] = {}
    unit_ns, problems = None, []
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        name = name.replace("_", "-")
        if not equals or not value:
            problems.append(f"{part!r} is no mapping; write FIELD=COLUMN")
        elif name not in FIELDS:
            problems.append(f"{name!r} is no field; fields are {', '.join(FIELDS)}")
        elif name in columns:
            problems.append(f"{name!r} is there twice; keep one of them")
        elif name == "start" and "@" in value:
            value, _, unit = value.rpartition("@")
            columns[name] = value
            if unit in _UNITS_NS:
                unit_ns = _UNITS_NS[unit]
            else:
                problems.append(f"{unit!r} is no unit of start; write s, ms, us or ns after the '@'")
        else:
            columns[name] = value
    if not problems:
        problems += [
            f"no column for {name!r}; add {name}=COLUMN" for name in _NEEDED[1:] if name not in columns
        ]
    if problems:
        raise ValueError("--map: " + "; ".join(problems))
    return Mapping("flow log by --map", columns, unit_ns)


def choose(header: Iterable[str], given: Mapping | None, has_moment: bool) -> Mapping:
    """The mapping for a log with these columns. has_moment: --at says when. Raises ValueError: what is missing, what to write."""
    header = list(header)
    mapping = given
    if mapping is None:
        plain = {name.replace("_", "-"): name for name in header}
        candidates = [
            *KNOWN[:2],
            Mapping("flow log", {name: plain[name] for name in FIELDS if name in plain}),
        ]
        fitting = [each for each in candidates if not _missing(each, header, has_moment)]
        if not fitting:
            raise ValueError(
                f"its columns are {', '.join(header)}: neither nfdump's nor ours ({', '.join(_NEEDED)}, packets, bytes); "
                "say which is which with --map start=COLUMN,src=COLUMN,…"
            )
        mapping = fitting[0]
        if mapping.name == "nfdump 1.7 CSV" and "lastSeen" in header and "cnt" in header:
            return Mapping("nfdump csv-fast", mapping.columns, _UNITS_NS["ms"])
    else:
        missing = _missing(mapping, header, has_moment)
        if missing:
            raise ValueError("; ".join(missing) + f"; its columns are {', '.join(header)}")
    kept = {name: value for name, value in mapping.columns.items() if value in header}
    return Mapping(mapping.name, kept, mapping.unit_ns)


def _missing(mapping: Mapping, header: list[str], has_moment: bool) -> list[str]:
    problems = [
        f"no column {value!r} for {name}"
        for name, value in mapping.columns.items()
        if value not in header
        and (name in _NEEDED or mapping not in KNOWN)
        and not (name == "start" and has_moment)
    ]
    for name in _NEEDED:
        if name not in mapping.columns and not (name == "start" and has_moment):
            problems.append(
                f"no column is mapped to {name}" + (" (or say --at TIME)" if name == "start" else "")
            )
    return problems
