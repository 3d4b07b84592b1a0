"""The doctor says what is there by trying it, and what an absence means."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from testbed.world import WorldError
from testbed.world.capabilities import FEATURES, Capabilities
from testbed.world.doctor import can_run, findings, lines, probe
from testbed.world.programs import PROGRAMS
from testbed.world.refusal import explain

EVERYTHING = Capabilities(
    kernel="6.1.0", machine="x86_64", is_root=True, cpus=2, memory_bytes=2**33,
    programs={program.name: "1.0" for program in PROGRAMS},
    **{feature.name: True for feature in FEATURES},
)  # fmt: skip


def status(capabilities: Capabilities, name: str) -> str:
    return next(finding.status for finding in findings(capabilities) if finding.name == name)


def test_every_feature_of_the_table_is_a_field_and_the_other_way_round() -> None:
    booleans = {field.name for field in fields(Capabilities) if field.type == "bool"} - {"is_root"}

    assert booleans == {feature.name for feature in FEATURES}


def test_with_everything_there_a_lab_runs_and_nothing_is_said_to_be_absent() -> None:
    assert can_run(EVERYTHING)
    assert len(lines(EVERYTHING)) == 3


def test_without_netem_the_queue_replaces_it_and_without_both_no_lab_runs() -> None:
    without_netem = replace(EVERYTHING, netem=False)
    without_both = replace(without_netem, nfqueue=False)

    assert (status(without_netem, "netem"), can_run(without_netem)) == ("substituted", True)
    assert (status(without_both, "netem"), can_run(without_both)) == ("missing", False)
    assert status(replace(EVERYTHING, nfqueue=False), "nfqueue") == "optional"


@pytest.mark.parametrize("name", [feature.name for feature in FEATURES if feature.need == "required"])
def test_a_required_feature_that_is_missing_makes_a_lab_impossible_and_says_how_to_get_it(name: str) -> None:
    lacking = replace(EVERYTHING, **{name: False}, reasons={name: "the kernel's own words"})  # type: ignore[arg-type]

    finding = next(finding for finding in findings(lacking) if finding.name == name)

    assert finding.status == "missing" and not can_run(lacking)
    assert "get it: " in finding.text and "the kernel's own words" in finding.text


def test_a_missing_program_names_its_package() -> None:
    lacking = replace(EVERYTHING, programs={**EVERYTHING.programs, "bird": None, "ocserv": None})

    text = "\n".join(lines(lacking))

    assert (
        "MISSING  bird: BGP routing: no lab is reachable without it; get it: sudo apt-get install bird2"
        in text
    )
    assert status(lacking, "ocserv") == "optional" and not can_run(lacking)


def test_wireguard_go_is_needed_only_where_the_kernel_has_no_wireguard() -> None:
    lacking = replace(EVERYTHING, programs={**EVERYTHING.programs, "wireguard-go": None})

    assert status(lacking, "wireguard-go") == "optional"
    assert status(replace(lacking, kernel_wireguard=False), "wireguard-go") == "missing"


@pytest.mark.parametrize(
    ("setting", "value", "write"),
    [
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
        ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
    ],
)  # fmt: skip
def test_a_refused_user_namespace_names_the_setting_that_forbids_it(
    tmp_path: Path, setting: str, value: str, write: str
) -> None:
    (tmp_path / setting).parent.mkdir(parents=True)
    (tmp_path / setting).write_text(value + "\n")

    assert write in explain("userns", "EPERM", "Operation not permitted", "", root=tmp_path)
    assert write not in explain("userns", "EPERM", "Operation not permitted", "", root=tmp_path / "elsewhere")


@pytest.mark.world(inside=False)
def test_probing_this_machine_tells_what_works_and_agrees_with_itself() -> None:
    try:
        capabilities = probe()
    except WorldError as error:
        pytest.skip(str(error))

    assert capabilities.veth and capabilities.named_netns and capabilities.raw_sockets
    assert set(capabilities.reasons) == {f.name for f in FEATURES if not getattr(capabilities, f.name)}
    assert json.loads(json.dumps(asdict(capabilities)))["kernel"] == capabilities.kernel


def test_a_probe_that_fails_says_why_and_one_that_works_says_nothing() -> None:
    from testbed.world import probes

    assert probes._run("true") == ""
    assert "nosuch0" in probes._run("tc", "qdisc", "add", "dev", "nosuch0", "root", "htb")
    assert probes._run("no-such-program") == "no-such-program is not installed"
