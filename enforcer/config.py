"""The enforcer's own configuration file: where everything is. YAML (JSON is YAML too), with the place of every mistake."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from enforcer.filemodel import Duration, FileModel, validate
from enforcer.yamlfile import FileError, read


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


class FeedFile(FileModel):
    url: str = Field(pattern="^https?://[^/]+")
    """Where the registry's feed is: http://HOST:PORT/feed."""
    key: str = Field(min_length=1)
    """File with the registry's public key (64 hexadecimal digits)."""
    poll: Duration = 1_000_000_000
    """How long to wait before asking again when the registry does not answer."""


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


def load_config(path: Path) -> Config:
    """Raises FileError with every problem."""
    document = read(path)
    model = validate(document, ConfigFile)
    if model is not None and not document.problems:
        folder = path.absolute().parent
        for where, name in ((("policy",), model.policy), (("feed", "key"), model.feed.key)):
            if not (folder / name).is_file():
                document.add(where, f"{name!r} is not a file", "write the path of a readable file")
        if len(str(folder / model.control).encode()) > 107:  # sun_path, unix(7)
            document.add(
                ("control",), "longer than a socket's path may be (107 bytes)", "write a shorter path"
            )
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
    )
