"""The enforcer's own configuration file: where everything is. YAML (JSON is YAML too), with the place of every mistake."""

from __future__ import annotations

import pwd
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from enforcer.audit import MOST_FILE_BYTES, MOST_FILES, MOST_LINES
from enforcer.filemodel import Duration, FileModel, Rate, shaped, validate
from enforcer.follow import LEAST_BPS, WITHIN_S
from enforcer.policy import renamed
from enforcer.privacy import load_key
from enforcer.yamlfile import Document, FileError, Problem, read

_LEAST_LOOK_NS = 10_000_000


@dataclass(frozen=True, slots=True)
class Config:
    """Paths are absolute; relative ones in the file start at its folder. poll_ns: between tries when the feed does not answer."""

    file: Path
    policy: Path
    dataplane: Literal["nft", "bpf", "nfqueue"]
    feed_url: str
    feed_key: Path
    poll_ns: int
    state: Path
    audit: Path
    control: Path
    inside: tuple[str, ...]
    outside: tuple[str, ...]
    log_group: int
    most_cells: int
    metrics: tuple[str, int] | None = None
    user: str | None = None
    audit_bytes: int = MOST_FILE_BYTES
    audit_files: int = MOST_FILES
    audit_lines: int = MOST_LINES
    audit_key: Path | None = None
    look_ns: int = 1_000_000_000
    feed_within_s: float = WITHIN_S
    feed_least_bps: int = LEAST_BPS

    @property
    def is_watchful(self) -> bool:
        """Whether it looks as often as on a real router; in virtual time, where looking is dear, it does not."""
        return self.look_ns <= 1_000_000_000


class FeedFile(FileModel):
    url: Annotated[str, *shaped("^https?://[^/]+", "write http(s)://HOST[:PORT]/feed")]
    """Where the registry's feed is: http://HOST:PORT/feed."""
    key: str = Field(min_length=1)
    """File with the registry's public key (64 hexadecimal digits)."""
    poll: Duration = 1_000_000_000
    """How long to wait before asking again when the registry does not answer."""
    within: Annotated[Duration, Field(ge=100_000_000, le=3_600_000_000_000)] = round(WITHIN_S * 1e9)
    """How long an answer of the registry, once begun, may take besides the time its bytes take at least-rate."""
    least_rate: Annotated[Rate, Field(ge=1000)] = LEAST_BPS
    """How fast a long answer must come at least; a list of a million entries has 310 MB."""


class ConfigFile(FileModel):
    """An enforcer's configuration."""

    policy: str = Field(min_length=1)
    """The policy file (*.policy.yaml)."""
    dataplane: Literal["nft", "bpf", "nfqueue"] = "nft"
    """Where packets are decided; `enforcer doctor` says which of them this machine can do."""
    feed: FeedFile
    """The registry's feed."""
    state: str = Field(min_length=1)
    """Folder for the last good allowlist; it survives restarts."""
    audit: str = Field(min_length=1)
    """File the audit is appended to, one JSON object a line."""
    control: str = Field(min_length=1)
    """Unix socket for `enforcer status` and `enforcer reload`."""
    inside: list[str] = []
    """Interfaces towards the subscribers: for explanations; a policy governs forwarding in both directions."""
    outside: list[str] = []
    """Interfaces towards the rest of the world."""
    log_group: Annotated[int, Field(ge=1, le=65535)] = 4747
    """NFLOG group the kernel reports stopped packets to; one program a group."""
    most_cells: Annotated[int, Field(ge=1, le=100_000_000)] = 2_000_000
    """How large an allowlist the dataplane may take, in cells (subscriber × endpoint × port × protocol)."""
    metrics: (
        Annotated[
            str,
            *shaped(
                r"^(\[[0-9a-fA-F:.]+\]|[0-9.]+):[0-9]{1,5}$", "write ADDRESS:PORT such as 127.0.0.1:9469"
            ),
        ]
        | None
    ) = None
    """Address and port for Prometheus, such as 127.0.0.1:9469 or [::1]:9469; nothing listens when left out."""
    user: str | None = Field(default=None, min_length=1)
    """Who to go on as after the start as root; the state, audit and control folders become this user's."""
    audit_megabytes: Annotated[int, Field(ge=1, le=1_000_000)] = MOST_FILE_BYTES // 1_000_000
    """How long one file of the audit may become; then it is AUDIT.1, and so on."""
    audit_files: Annotated[int, Field(ge=1, le=10_000)] = MOST_FILES
    """How many files of the audit are kept, the one that is written among them."""
    audit_lines: Annotated[int, Field(ge=1, le=1_000_000)] = MOST_LINES
    """How many lines a second the audit takes about stopped packets; the rest are counted by reason and protocol."""
    audit_key: str | None = Field(default=None, min_length=1)
    """File with the key (64 hexadecimal digits) of a policy's `audit: {addresses: keyed-hash}`; left out, one is drawn at each start."""
    look: Duration = 1_000_000_000
    """How often to look at what tells nothing by itself: whether the rules are still there, counters, the disk. Above 1s, which is for virtual time, the clock too."""


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a configuration, for editors."""
    schema = ConfigFile.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "allowlab.enforcer/1", **schema}


def load_config(path: Path) -> Config:
    """Raises FileError with every problem."""
    document, model = _examined(path)
    if model is None or document.problems:
        raise FileError(document.problems)
    folder = path.absolute().parent
    return Config(
        file=path.absolute(),
        policy=folder / model.policy,
        dataplane=model.dataplane,
        feed_url=model.feed.url.rstrip("/"),
        feed_key=folder / model.feed.key,
        poll_ns=model.feed.poll,
        state=folder / model.state,
        audit=folder / model.audit,
        control=folder / model.control,
        inside=tuple(model.inside),
        outside=tuple(model.outside),
        log_group=model.log_group,
        most_cells=model.most_cells,
        metrics=_address(model.metrics),
        user=model.user,
        audit_bytes=model.audit_megabytes * 1_000_000,
        audit_files=model.audit_files,
        audit_lines=model.audit_lines,
        audit_key=folder / model.audit_key if model.audit_key else None,
        look_ns=max(model.look, _LEAST_LOOK_NS),
        feed_within_s=model.feed.within / 1e9,
        feed_least_bps=model.feed.least_rate,
    )


def named_policy(path: Path) -> Path | None:
    """The policy file that a configuration names, whatever else is wrong in it; None when it names none that is there."""
    _, model = _examined(path)
    policy = path.absolute().parent / model.policy if model is not None and model.policy else None
    return policy if policy is not None and policy.is_file() else None


def config_doubts(path: Path) -> list[Problem]:
    """Interfaces the configuration names and this machine (this network namespace) has not."""
    document, model = _examined(path)
    found = Document(document.file, document.data, document.keys, document.values)
    if model is not None:
        for side, names in (("inside", model.inside), ("outside", model.outside)):
            for place, name in enumerate(names):
                if missing_interfaces([name]):
                    found.add(
                        (side, place),
                        f"there is no interface {name!r} here",
                        "`ip -br link` lists what there is",
                    )
    return found.problems


def missing_interfaces(names: Iterable[str]) -> list[str]:
    """Those of the names that no interface of this network namespace has."""
    there = {name for _, name in socket.if_nameindex()}
    return [name for name in names if name not in there]


def _examined(path: Path) -> tuple[Document, ConfigFile | None]:
    """The file and what of it can be used, all problems noted; a required key that is missing or wrong is None."""
    document = read(path)
    model = validate(document, ConfigFile)
    if model is None:
        return document, None
    folder = path.absolute().parent
    feed = document.data.get("feed")
    files: list[tuple[tuple[str, ...], Any, Callable[[Path], object]]] = [
        (("policy",), model.policy, _any_file),
        (("feed", "key"), feed.get("key") if isinstance(feed, dict) else None, _feed_key),
        (("audit-key",), model.audit_key, load_key),
    ]
    for where, name, reader in files:
        if not isinstance(name, str) or not name:
            continue
        if not (folder / name).is_file():
            fix = renamed(folder / name) or "write the path of a readable file"
            document.add(where, f"{name!r} is not a file", fix)
            continue
        try:
            reader(folder / name)
        except PermissionError:  # `status` needs no key, and may be asked by somebody who may not read it
            continue
        except (ValueError, OSError) as error:
            what, _, fix = str(error).removeprefix(f"{folder / name}: ").partition("; ")
            document.add(where, f"{name!r}: {what}", fix)
    if model.control and len(str(folder / model.control).encode()) > 107:  # sun_path, unix(7)
        document.add(("control",), "longer than a socket's path may be (107 bytes)", "write a shorter path")
    if model.metrics is not None and not 0 < int(model.metrics.rpartition(":")[2]) < 65536:
        document.add(("metrics",), "not a port", "write a port from 1 to 65535")
    if model.user is not None and not _is_user(model.user):
        document.add(
            ("user",), f"{model.user!r} is not a user here", "make it: useradd --system " + model.user
        )
    return document, model


def _any_file(path: Path) -> None:
    """What it holds is looked at where it is used."""


def _feed_key(path: Path) -> None:
    try:
        is_key = len(bytes.fromhex(path.read_text().strip())) == 32
    except ValueError:
        is_key = False
    if not is_key:
        raise ValueError(
            "not a key of 64 hexadecimal digits; write the path of the .pub file that `enforcer-registry key` makes"
        )


def _address(text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
