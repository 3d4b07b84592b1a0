"""Boots a kernel that was just built: does it start, is its time virtual, and what can it do for a lab?"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from testbed.world.capabilities import FEATURES, Capabilities
from testbed.world.uml.machine import Machine, VirtualTime, open_machine

_START_NS = 1_731_232_800 * 10**9  # 10 November 2024, 10:00 UTC
_SLEEP_S = 3600
_SCRIPT = (
    "import sys, time, subprocess; "
    f"a = time.time(); time.sleep({_SLEEP_S}); b = time.time(); "
    "print(a, b, flush=True); "
    "sys.exit(subprocess.call([sys.executable, '-B', '-m', 'testbed.world.probes']))"
)


class NotVerified(Exception):
    """The kernel was built and does not do what the lab needs of it."""


def verify(kernel: Path) -> dict[str, Any]:
    """What the kernel can do, as Capabilities' fields. Raises NotVerified, WorldError."""
    with tempfile.TemporaryDirectory(prefix="allowlab-verify-") as name:
        log = Path(name) / "log"
        began_s = time.monotonic()
        virtual = VirtualTime(_START_NS, 1)
        with open_machine(
            kernel, [sys.executable, "-B", "-c", _SCRIPT], folders={}, log=log, virtual=virtual
        ) as machine:
            lines = list(_all_lines(machine))
            code = machine.wait()
        took_s = time.monotonic() - began_s
        if code or len(lines) < 2:
            text = log.read_text(encoding="utf-8", errors="replace").strip() if log.exists() else ""
            raise NotVerified(
                f"the kernel boots, and its first program failed: {text[-300:] or f'exit code {code}'}"
            )
    start_s, end_s = map(float, lines[0].split())
    if abs(start_s - _START_NS / 1e9) > 10 or not _SLEEP_S <= end_s - start_s < _SLEEP_S + 1:
        at = datetime.fromtimestamp(start_s).isoformat()
        raise NotVerified(
            f"the kernel's time is not virtual: it began at {at}, and an hour took {end_s - start_s:.1f} s"
        )
    if took_s > _SLEEP_S / 10:
        raise NotVerified(f"an hour of virtual time took {took_s:.0f} s")
    return _capabilities(json.loads(lines[-1]))


def _all_lines(machine: Machine) -> list[str]:
    return [line for line in machine.lines() if line.strip()]


def _capabilities(found: dict[str, Any]) -> dict[str, Any]:
    failures = found["failures"] | {"user_namespaces": ""}
    return asdict(
        Capabilities(
            kernel=found["kernel"],
            machine=os.uname().machine,
            is_root=True,  # over its own kernel, whoever called it
            cpus=1,
            memory_bytes=found["memory_bytes"],
            programs=found["programs"],
            reasons={name: why for name, why in failures.items() if why},
            **{feature.name: not failures[feature.name] for feature in FEATURES},  # type: ignore[arg-type]
        )
    )
