"""The failure matrix (docs/failure-matrix.md): each row breaks the real thing under traffic, and the policy decides what happens.

A few rows run always; all of them with `-m nightly` (with `-k nft`, `-k bpf`, `-k nfqueue` in parts). The table is printed at the end (`-rP`) and
written as failure-matrix.json and .md into pytest's temporary folder; `python -m tests.failure_matrix FILE…` makes one table of several.
"""

from __future__ import annotations

import pytest

from tests import failure_matrix
from tests.failure_rows import ROWS

pytestmark = [pytest.mark.world, pytest.mark.timeout(7200)]

ALWAYS = {
    ("agent killed", "nft", "block"),
    ("feed forged", "bpf", "block"),
    ("clock -1 h", "nfqueue", "block"),
}
# All settings on nft; what they come to (Conditions.fallback) is the same code for all, so two of them on the others.
CASES = [
    pytest.param(
        row,
        dataplane,
        setting,
        id=f"{row.name.replace(' ', '-')}-{dataplane}-{setting or 'any'}",
        marks=[] if (row.name, dataplane, setting) in ALWAYS else [pytest.mark.nightly],
    )
    for dataplane in ("nft", "bpf", "nfqueue")
    for row in ROWS
    if dataplane in row.dataplanes
    for setting in (row.settings if dataplane == "nft" else row.settings[-2:])
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    found = []
    yield found
    path = failure_matrix.write(found, tmp_path_factory.getbasetemp())
    print(f"\n{path.with_suffix('.md').read_text()}\nwritten to {path}")


@pytest.mark.parametrize(("row", "dataplane", "setting"), CASES)
def test_the_policy_decides(row, dataplane, setting, tmp_path, results):
    if row.missing:
        pytest.skip(row.missing)
    result = failure_matrix.play(row, dataplane, setting, tmp_path)
    results.append(result)
    assert result.shortcoming or not result.misjudged, result.detail
