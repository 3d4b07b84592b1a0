"""The enforcer as a program, with the bpf dataplane: what test_enforcer_run_world says of it holds here too."""

from __future__ import annotations

import json
import os

import pytest

from enforcer.dataplanes import DataplaneError
from tests.dataplane_lab import router, wait_until
from tests.dataplane_traffic import LINE, OTHER_LINE, delivered, wireguard
from tests.test_dataplane_bpf_world import STRICT, OnTheClientSide
from tests.test_enforcer_run_world import (  # noqa: F401
    Site,
    started,
    test_a_killed_enforcer_leaves_its_rules_and_a_new_one_takes_them_over,
    test_an_enforcer_without_its_registry_goes_on_with_what_it_kept,
    test_approval_and_revocation_take_effect_through_the_feed,
)

pytestmark = pytest.mark.world


@pytest.fixture
def site(tmp_path):
    try:
        OnTheClientSide(STRICT).close()
    except DataplaneError as error:
        if os.geteuid() == 0 and "clang is not here" not in str(error) and "let this user" not in str(error):
            raise
        pytest.skip(str(error))
    with router() as lab:
        made = Site(lab, tmp_path)
        path = tmp_path / "enforcer.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"dataplane": "bpf", "inside": ["gc"]}))
        try:
            yield made
        finally:
            for process in made.processes.values():
                process.kill()
                process.wait()


def test_what_it_does_not_offer_is_said_at_start_and_nothing_is_enforced(site):
    path = site.folder / "enforcer.json"
    good = json.loads(path.read_text())
    path.write_text(json.dumps(good | {"inside": []}))
    done = site.run("enforcer", "run", "--config", str(path), check=False)
    assert done.returncode == 3
    assert "name them: inside: [lan0]" in done.stderr
    assert "Traceback" not in done.stderr
    assert delivered(site.lab, wireguard(4, line=OTHER_LINE))


def test_taken_away_it_is_put_back_by_the_agent(site):
    started(site)
    assert not delivered(site.lab, wireguard(4, line=OTHER_LINE))
    site.lab.run("tc", "qdisc", "del", "dev", "gc", "clsact")
    assert delivered(site.lab, wireguard(4, line=LINE))

    wait_until(lambda: not delivered(site.lab, wireguard(4, line=OTHER_LINE)), 10)
    assert "dataplane-dead" in {line["condition"] for line in site.lines("failure")}
