"""The lab's own kernel, as far as nothing has to be booted: its cache, the watch over its clock, comparing two runs."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from testbed import session, session_place
from testbed.cli import main
from testbed.session_place import InKernel, InNamespaces, choose
from testbed.session_verify import Difference, first_difference, other_kernel
from testbed.world.capabilities import Capabilities
from testbed.world.uml import build, store
from testbed.world.uml.watch import Stalled, Watch


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "allowlab" / "kernel"


def keep(cache: Path, key: str, built: str = "2024-11-10T11:00:00+00:00") -> store.Kernel:
    folder = cache / key
    folder.mkdir(parents=True)
    (folder / "linux").write_bytes(b"kernel")
    kernel = store.Kernel(folder / "linux", key, "6.1.1-1", "6.1.1", built, 300.0, 6, "gcc")
    store.save(kernel)
    return kernel


def test_the_kept_kernel_is_found_and_taken_away(cache):
    kernel = keep(cache, store.key_of("6.1.1-1"))
    assert store.current() == kernel
    assert CliRunner().invoke(main, ["kernel", "status"]).exit_code == 0
    assert store.remove() and not store.kernels()


def test_a_kernel_of_other_files_does_not_count(cache):
    keep(cache, "0" * 16)
    with pytest.raises(store.NoKernel, match=r"built from other files.*kernel build"):
        store.current()
    status = CliRunner().invoke(main, ["kernel", "status"])
    assert status.exit_code == 3
    assert "of another version" in status.output


def test_half_a_kernel_does_not_count(cache):
    kernel = keep(cache, store.key_of("6.1.1-1"))
    kernel.path.unlink()
    with pytest.raises(store.NoKernel, match="there is none"):
        store.current()


def test_a_virtual_run_without_a_kernel_says_what_to_call(cache, tmp_path):
    scenario = Path(__file__).parent.parent / "scenarios" / "minimal-smoke.scenario.yaml"
    argv = ["run", str(scenario), "--clock", "virtual", "--results", str(tmp_path / "results"), "--quiet"]
    done = CliRunner().invoke(main, argv)
    assert done.exit_code == 3
    assert "kernel build" in done.output


def test_a_run_that_this_kernel_cannot_hold_names_the_labs_own(tmp_path, monkeypatch):
    bare = Capabilities(kernel="6.1", machine="x86_64", is_root=True, cpus=1, memory_bytes=2**30)
    monkeypatch.setattr(session_place, "probe", lambda: bare)
    scenario = Path(__file__).parent.parent / "scenarios" / "minimal-smoke.scenario.yaml"
    result = session.run(scenario, session.Options(results=tmp_path, report=False))
    assert (result.outcome, result.exit_code) == ("broken", 3)
    assert "this kernel lacks what the lab needs: veth pairs" in result.reason
    assert "--world uml" in result.reason and "kernel build" in result.reason


def test_places():
    assert choose("real", None) == InNamespaces()
    assert choose("virtual", None) == InKernel("virtual")
    assert choose("real", "uml") == InKernel("real")
    with pytest.raises(ValueError, match="--world namespaces has the host's clock"):
        choose("virtual", "namespaces")


def test_a_dropped_or_selected_option_fails_the_build(tmp_path):
    lines = store.CONFIG.read_text(encoding="ascii").splitlines()
    whole = [line for line in lines if line.endswith("=y")]
    config = tmp_path / ".config"
    config.write_text("\n".join(whole), encoding="ascii")
    build._check_configuration(config)
    config.write_text("\n".join(line for line in whole if line != "CONFIG_WIREGUARD=y"), encoding="ascii")
    with pytest.raises(build.BuildFailed, match="dropped CONFIG_WIREGUARD=y"):
        build._check_configuration(config)
    config.write_text("\n".join([*whole, "CONFIG_HW_RANDOM=y"]), encoding="ascii")
    with pytest.raises(build.BuildFailed, match="has CONFIG_HW_RANDOM, which it must not"):
        build._check_configuration(config)


def test_a_program_that_spins_with_the_clock_standing_still_is_named(tmp_path):
    spin = "import os, time\nif os.fork(): time.sleep(100)\nwhile True: pass"
    kernel = subprocess.Popen([sys.executable, "-c", spin], start_new_session=True)
    try:
        heartbeat = tmp_path / "heartbeat"
        heartbeat.write_text("123.456\n", encoding="ascii")
        watch = Watch(kernel.pid, heartbeat, limit_s=0.3)
        with pytest.raises(Stalled, match=r"stalled at 123 s of virtual time in .*python"):
            for _ in range(10_000_000):
                watch.look()
    finally:
        os.killpg(kernel.pid, 9)
        kernel.wait()


def test_a_clock_that_goes_on_is_progress(tmp_path):
    heartbeat = tmp_path / "heartbeat"
    watch = Watch(os.getpid(), heartbeat, limit_s=0.001)
    for second in range(300):
        heartbeat.write_text(f"{second}\n", encoding="ascii")
        watch.look()


def run_folder(path: Path, rows: list[dict]) -> Path:
    path.mkdir()
    (path / "summary.json").write_text(json.dumps({"outcome": "passed"}), encoding="utf-8")
    with gzip.open(path / "flows.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def test_the_first_difference_names_file_line_and_field(tmp_path):
    rows = [{"id": "a", "data": {"ports": [1, 2]}}, {"id": "b", "data": {"ports": [3, 4]}}]
    one = run_folder(tmp_path / "one", rows)
    assert first_difference(one, run_folder(tmp_path / "same", rows)) is None
    rows[1] = {"id": "b", "data": {"ports": [3, 5]}}
    other = run_folder(tmp_path / "other", rows)
    assert first_difference(one, other) == Difference("flows.jsonl.gz", 2, "data.ports[1]", "4", "5")
    short = run_folder(tmp_path / "short", rows[:1])
    found = first_difference(one, short)
    assert found is not None and (found.file, found.line) == ("flows.jsonl.gz", 2)
    assert "the file ends here" in found.second


def run_made_with(folder: Path, kernel: dict[str, str] | None) -> Path:
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"outcome": "passed", "kernel": kernel}), encoding="utf-8")
    return folder


def test_run_json_names_the_kernel_and_verify_says_when_it_is_another(cache, tmp_path):
    kept = keep(cache, store.key_of("6.1.1-1"))
    named = InKernel("virtual").kernel()
    assert named == {
        "key": kept.key, "release": "6.1.1", "source": "6.1.1-1", "compiler": "gcc", "built": kept.built
    }  # fmt: skip
    assert InNamespaces().kernel() is None
    assert other_kernel(run_made_with(tmp_path / "same", named)) == ""
    for change in ({"key": "0" * 16}, {"compiler": "gcc 13"}):
        told = other_kernel(run_made_with(tmp_path / "-".join(change), named | change))
        assert told.startswith("the kernel is another one: the run was made with ") and kept.key in told
    assert "does not say which kernel" in other_kernel(run_made_with(tmp_path / "old", None))


def test_the_command_tells_of_another_kernel_whatever_the_comparison_finds(cache, tmp_path, monkeypatch):
    keep(cache, store.key_of("6.1.1-1"))
    run = run_made_with(tmp_path / "run", InKernel("virtual").kernel() | {"key": "f" * 16})
    monkeypatch.setattr("testbed.session_verify.verify", lambda *_: None)
    asked = CliRunner().invoke(main, ["verify", str(run)])
    assert asked.exit_code == 0 and "identical" in asked.output and "ffffffffffffffff" in asked.output
    monkeypatch.setattr("testbed.session_verify.verify", lambda *_: Difference("a", 1, "b", "1", "2"))
    asked = CliRunner().invoke(main, ["verify", str(run)])
    assert asked.exit_code == 1 and "not identical: a:1: b" in asked.output
    assert "the kernel is another one" in asked.output


def test_verify_refuses_what_cannot_be_repeated(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    asked = CliRunner().invoke(main, ["verify", str(folder)])
    assert asked.exit_code == 2 and "not a run folder" in asked.output
    (folder / "plan.json").write_text("{}", encoding="utf-8")
    (folder / "run.json").write_text(
        json.dumps({"outcome": "passed", "options": {"clock": "real"}}), encoding="utf-8"
    )
    asked = CliRunner().invoke(main, ["verify", str(folder)])
    assert asked.exit_code == 2 and "real time" in asked.output
