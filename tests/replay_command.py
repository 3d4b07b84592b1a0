"""`enforcer replay` of the shipped examples, for tests."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from enforcer.cli import main
from tests.replay_examples import FOLDER

LOGS = ["border-1.6.nfdump.csv", "border-1.7.nfdump.csv", "border.parquet"]
BOTH = ["--policy", str(FOLDER / "border.policy.yaml"), "--allowlist", str(FOLDER / "allowlist.json")]


def replay(name, *options, code=0):
    """What the command prints; name is an example's or a path."""
    path = name if isinstance(name, Path) else FOLDER / name
    result = CliRunner().invoke(main, ["replay", str(path), *BOTH, *map(str, options)])
    assert result.exit_code == code, result.output
    return result.output


def data(name, *options, code=0):
    return json.loads(replay(name, *options, "--json", code=code))


def log_of(tmp_path, *rows, head="start,src,dst,proto,src_port,dst_port,packets,bytes"):
    path = tmp_path / "x.csv"
    path.write_text("\n".join([head, *(f"2024-11-10T09:00:00Z,{row}" for row in rows)]) + "\n")
    return path


ANSWER = "198.51.100.10,203.0.113.7,17,51820,40000,1,200"
