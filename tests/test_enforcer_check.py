"""`enforcer check`: what is wrong with a configuration is all said before `enforcer run` finds it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from enforcer.cli import main
from enforcer.config import load_config
from enforcer.yamlfile import FileError

POLICIES = Path(__file__).parents[1] / "enforcer/policies"
GOOD = {
    "policy": "registered-pairs.policy.yaml",
    "feed": '{url: "http://127.0.0.1:8080/feed", key: feed.pub}',
    "state": "state",
    "audit": "audit.jsonl",
    "control": "enforcer.sock",
    "inside": "[lo]",
}


@pytest.fixture
def site(tmp_path):
    """Writes a configuration with changes, checks it: exit code and what was printed."""
    shutil.copy(POLICIES / GOOD["policy"], tmp_path)
    (tmp_path / "feed.pub").write_text("ab" * 32 + "\n")

    def check(**changes):
        file = tmp_path / "enforcer.yaml"
        keys = {name.replace("_", "-"): value for name, value in (GOOD | changes).items()}
        file.write_text("".join(f"{key}: {value}\n" for key, value in keys.items()))
        done = CliRunner().invoke(main, ["check", str(file)])
        return done.exit_code, done.output

    return check


def test_a_good_configuration_has_no_problems(site):
    assert site() == (0, "1 file checked, no problems\n")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrics": "127.0.0.1"}, "metrics: '127.0.0.1' is not possible here; write ADDRESS:PORT such as 127.0.0.1:9469"),
        (
            {"feed": "{url: '127.0.0.1:8080', key: feed.pub}"},
            "feed.url: '127.0.0.1:8080' is not possible here; write http(s)://HOST[:PORT]/feed",
        ),
        ({"feed": "{url: 'http://a/feed', key: registered-pairs.policy.yaml}"}, "feed.key: 'registered-pairs.policy.yaml': not a key"),
        ({"audit_key": "registered-pairs.policy.yaml"}, "audit-key: 'registered-pairs.policy.yaml': anybody may read this key; write: chmod"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_what_to_write(site, changes, said):
    code, printed = site(**changes)
    assert code == 2 and said in printed and printed.count("\n") == 1


def test_a_wrong_key_name_hides_no_other_problem(site, tmp_path):
    (tmp_path / "bad.policy.yaml").write_text("policy: bad\n")
    code, printed = site(
        metrix="127.0.0.1:9469", feed="{url: nowhere, key: enforcer.yaml}", policy="bad.policy.yaml"
    )
    assert code == 2
    for said in ("'metrix' is not a key here", "feed.url:", "feed.key: 'enforcer.yaml': not a key", "bad.policy.yaml:1:1"):  # fmt: skip
        assert said in printed


def test_an_interface_that_is_not_there_is_a_warning(site):
    code, printed = site(inside="[lo, lan77]", outside="[wan77]")
    assert code == 0 and "1 file checked, no problems, 2 warnings" in printed
    assert (
        "enforcer.yaml:6:14: inside[1]: there is no interface 'lan77' here" in printed
        and "'lo'" not in printed
    )


def test_a_new_name_is_offered_only_where_that_file_is(site, tmp_path):
    _, printed = site(policy="strict.policy.yaml")
    assert "'strict' is called 'registered-pairs' now" in printed
    (tmp_path / "registered-pairs.policy.yaml").unlink()
    code, printed = site(policy="strict.policy.yaml")
    assert code == 2 and "registered-pairs" not in printed
    assert "'strict.policy.yaml' is not a file; write the path of a readable file" in printed


def test_a_folder_without_policies_is_a_mistake(tmp_path):
    done = CliRunner().invoke(main, ["check", str(tmp_path)])
    assert done.exit_code == 2 and "no *.policy.yaml is in this folder" in done.output
    shutil.copy(POLICIES / "registered-pairs.policy.yaml", tmp_path)  # control
    assert CliRunner().invoke(main, ["check", str(tmp_path)]).output == "1 file checked, no problems\n"


def test_what_check_refuses_is_not_loaded(site, tmp_path):
    site(feed="{url: 'http://a/feed', key: registered-pairs.policy.yaml}")
    with pytest.raises(FileError, match=r"feed\.key"):
        load_config(tmp_path / "enforcer.yaml")
