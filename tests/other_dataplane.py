"""The enforcer with another dataplane than its configuration says: `python -m tests.other_dataplane bpf run --config FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from enforcer.cli import main

if __name__ == "__main__":
    dataplane = sys.argv.pop(1)
    place = sys.argv.index("--config") + 1
    config = json.loads(Path(sys.argv[place]).read_text())
    changed = Path(config["state"]) / "other.yaml"
    changed.write_text(json.dumps({**config, "dataplane": dataplane}))
    sys.argv[place] = str(changed)
    main()
