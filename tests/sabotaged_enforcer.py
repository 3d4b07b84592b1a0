"""The enforcer, broken on purpose: `python -m tests.sabotaged_enforcer MODE run --config FILE`. Scenarios must catch each mode.

allow-everything     decides as always and stops nothing
block-everything     takes every registration for one of somebody else
ignore-revocations   never takes a registration out again
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from enforcer.allowlist import Entry
from enforcer.cli import main
from enforcer.enforced import Enforced

_NOBODY = ("192.0.2.1/32",)  # TEST-NET-1 (RFC 5737): nobody in a lab has it


def allow_everything() -> None:
    place = sys.argv.index("--config") + 1
    config = json.loads(Path(sys.argv[place]).read_text())
    policy = json.loads(Path(config["policy"]).read_text())
    sabotaged = Path(config["state"]) / "sabotaged.policy.json"
    sabotaged.write_text(json.dumps({**policy, "mode": "observe"}))
    changed = Path(config["state"]) / "sabotaged.yaml"
    changed.write_text(json.dumps({**config, "policy": str(sabotaged)}))
    sys.argv[place] = str(changed)


def block_everything() -> None:
    honest = Entry.from_json

    def for_nobody(data, *shared) -> Entry:
        return replace(honest(data, *shared), subscriber_prefixes=_NOBODY, endpoint_prefixes=_NOBODY)

    Entry.from_json = for_nobody  # type: ignore[method-assign]


def ignore_revocations() -> None:
    honest = Enforced.apply

    def without_removals(self, allowlist, touched, states, now_ns):
        return honest(self, allowlist, set(touched) - set(states), {}, now_ns)

    Enforced.apply = without_removals  # type: ignore[method-assign]


MODES = {
    "allow-everything": allow_everything,
    "block-everything": block_everything,
    "ignore-revocations": ignore_revocations,
}

if __name__ == "__main__":
    MODES[sys.argv.pop(1)]()
    main()
