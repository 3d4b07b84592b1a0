"""An agent keeps the capabilities it needs and no others, in every thread, and can go on as an ordinary user."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from enforcer.privileges import NUMBERS, RUNNING
from tests.failure_bench import bench

pytestmark = pytest.mark.world


def capabilities(pid, which):
    """Of each thread."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        lines = (thread / "status").read_text().splitlines()
        fields = dict(line.split(":\t") for line in lines if ":\t" in line)
        found.append(int(fields[which], 16))
    return found


def status_of(pid, field):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split(":")[1].split() for line in lines if line.startswith(f"{field}:"))


def let_everybody_read(folder):
    """The test's folders, which are root's alone; and this Python, if it is somebody's own: a mount of this world's puts it in the open."""
    for path in (folder, *folder.parents):
        if path.is_relative_to("/tmp") and path.as_posix() != "/tmp":
            path.chmod(0o755)
    python = Path(sys.base_prefix).resolve()
    closed = [path for path in python.parents if not path.stat().st_mode & 0o001]
    if closed:
        aside = tempfile.mkdtemp(dir="/run")
        mounts = [["--bind", str(python), aside], ["-t", "tmpfs", "-o", "mode=755", "tmpfs", str(closed[-1])]]
        for arguments in mounts:
            subprocess.run(["mount", *arguments], check=True)
        python.mkdir(parents=True)
        subprocess.run(["mount", "--bind", aside, str(python)], check=True)


@pytest.mark.parametrize(
    "dataplane", ["bpf", *(pytest.param(each, marks=pytest.mark.nightly) for each in ("nft", "nfqueue"))]
)
def test_what_is_not_needed_is_dropped_and_the_rest_works(dataplane, tmp_path):
    with bench(tmp_path / "bench", dataplane, {}) as made:
        made.begin()
        pid = made.processes["enforcer"].pid
        allowed = sum(1 << NUMBERS[name] for name in RUNNING[dataplane])
        for which in ("CapEff", "CapPrm", "CapInh", "CapBnd"):
            assert set(capabilities(pid, which)) == {allowed}, which
        assert status_of(pid, "NoNewPrivs") == ["1"]
        assert status_of(os.getpid(), "CapEff") != [f"{allowed:016x}"]  # control: the tester has more
        made.register(30)  # and with these it enforces: a change goes into the kernel
        made.wait_for(made.serial_is_newest)
        if dataplane == "bpf":  # attaching anew needs no more either
            made.lab.run("tc", "qdisc", "del", "dev", "gc", "clsact")
            made.wait_for(lambda: made.count("dataplane-dead") and not (made.status() or {})["failures"])


@pytest.mark.parametrize("dataplane", ["nft", pytest.param("nfqueue", marks=pytest.mark.nightly)])
def test_it_goes_on_as_an_ordinary_user(dataplane, tmp_path):
    nobody = pwd.getpwnam("nobody")
    with bench(
        tmp_path / "bench", dataplane, {}, config={"user": "nobody", "control": "/run/allowlist/sock"}
    ) as made:
        let_everybody_read(tmp_path)
        made.folder.joinpath("disk").chmod(0o777)
        made.socket = Path("/run/allowlist/sock")
        shutil.rmtree("/run/allowlist", ignore_errors=True)  # the world's own /run
        made.begin()
        pid = made.processes["enforcer"].pid
        assert status_of(pid, "Uid") == [str(nobody.pw_uid)] * 4
        assert status_of(pid, "Groups") == []
        assert (made.folder / "disk/state").stat().st_uid == nobody.pw_uid
        assert set(capabilities(pid, "CapEff")) == {1 << NUMBERS["CAP_NET_ADMIN"]}
        made.register(30)
        made.wait_for(made.serial_is_newest)
        assert made.lines("applied")


def test_it_starts_with_what_the_service_gives_it(tmp_path):
    """As under systemd: an ordinary user, one ambient capability, no memory that is written and run."""
    with bench(tmp_path / "bench", "nft", {}) as made:
        let_everybody_read(tmp_path)
        made.folder.chmod(0o777)
        made.folder.joinpath("disk").chmod(0o777)
        made.start("registry")
        no_write_and_run = "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
        argv = [
            "setpriv",
            "--reuid=nobody",
            "--regid=nogroup",
            "--clear-groups",
            "--bounding-set=-all,+net_admin",
        ]
        argv += ["--inh-caps=+net_admin", "--ambient-caps=+net_admin", "--no-new-privs"]
        argv += [
            sys.executable,
            "-c",
            no_write_and_run,
            sys.executable,
            "-m",
            "enforcer",
            "run",
            "--config",
            str(made.config),
        ]
        with made.lab.inside():
            made.processes["enforcer"] = subprocess.Popen(argv, stdout=made.log, stderr=made.log)
        made.wait_for(lambda: (made.status() or {}).get("entries") == 20, 30)
        assert set(capabilities(made.processes["enforcer"].pid, "CapEff")) == {1 << NUMBERS["CAP_NET_ADMIN"]}


def test_a_user_that_may_not_write_is_told_so(tmp_path):
    with bench(tmp_path / "bench", "nft", {}, config={"user": "nobody"}) as made:
        let_everybody_read(tmp_path)
        made.folder.joinpath("disk").chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-m", "enforcer", "run", "--config", str(made.config)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2 and "may not write in" in done.stderr and "chown nobody" in done.stderr
        path = made.config
        path.write_text(json.dumps(json.loads(path.read_text()) | {"user": "nosuchuser"}))
        done = subprocess.run(
            [sys.executable, "-m", "enforcer", "check", str(path)], capture_output=True, text=True
        )
        assert "useradd --system nosuchuser" in done.stderr
