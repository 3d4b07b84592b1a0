"""The unit under systemd itself, installed as docs/router.md says: it starts, enforces with its hardening, and comes back when it hangs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dataplane_kinds import lab  # noqa: F401
from tests.dataplane_lab import wait_until
from tests.dataplane_traffic import LINE, OTHER_LINE, SERVER, delivered, wireguard
from tests.private_systemd import private_systemd, why_not

ROOT = Path(__file__).parent.parent
UNIT = "allowlist-enforcer"
pytestmark = [
    pytest.mark.world,
    pytest.mark.nightly,
    pytest.mark.skipif(bool(why_not()), reason=f"no systemd of one's own: {why_not()}"),
]
_PAGE = (ROOT / "docs/router.md").read_text().split("## As a service")[1]
[INSTALLING] = re.findall(r"```console\n(.*?)```", _PAGE, re.DOTALL)
[CONFIGURATION] = re.findall(r"```yaml\n(.*?)```", _PAGE, re.DOTALL)
_PROGRAM = """#!/bin/sh
export LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH=/opt/source:/opt/source/{site}
exec /opt/python/bin/python{version} -m enforcer "$@"
"""
_CAP_NET_ADMIN = 12  # linux/capability.h


@pytest.fixture
def registry(lab, tmp_path):  # noqa: F811
    """In the router's network, with one registration; the file of its public key."""
    form = {
        "registrant": "softhouse",
        "subscriber_prefixes": [f"{LINE[4]}/32"],
        "endpoint_prefixes": [f"{SERVER[4]}/32"],
        "state": "active",
    }
    (tmp_path / "seed.json").write_text(json.dumps({"registrations": [form]}))
    config = {
        "database": "ledger.sqlite",
        "rules": {"accepts_private_addresses": True},
        "key": "feed.key",
        "bind": ["127.0.0.1"],
        "port": 8080,
        "seed": "seed.json",
    }
    (tmp_path / "registry.json").write_text(json.dumps(config | {"tokens": {"isp": "i", "officer": "o"}}))
    argv = [sys.executable, "-m", "enforcer.registry", "serve", "--config", str(tmp_path / "registry.json")]
    with lab.inside():
        process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None and b"serving" in process.stdout.readline()
    yield tmp_path / "feed.pub"
    process.kill()
    process.wait()


def passes(router) -> tuple[bool, bool]:
    """Whether the registered line gets through, and another; each time with flows nobody has seen before."""
    passes.port = getattr(passes, "port", 20000) + 1
    return tuple(
        delivered(router, wireguard(4, src_port=passes.port, line=line)) for line in (LINE, OTHER_LINE)
    )


def install(systemd, key: Path) -> None:
    """What the page says, line by line; what it leaves to the reader (the program itself, three files) at its place."""
    site = (
        Path(sys.prefix).relative_to(ROOT)
        / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    )
    program = _PROGRAM.format(site=site, version=f"{sys.version_info[0]}.{sys.version_info[1]}")
    systemd.write("/usr/local/bin/enforcer", program, "755")
    *before, enable = INSTALLING.strip().splitlines()
    assert enable == f"systemctl enable --now {UNIT}"
    systemd.shell("cd /opt/source\n" + "\n".join(before))
    policy = (ROOT / "enforcer/policies/registered-pairs.policy.yaml").read_text()
    configuration = CONFIGURATION.replace("https://registry.example", "http://127.0.0.1:8080")
    configuration = configuration.replace("lan0", "gc").replace("wan0", "gs")
    for name, text in (
        ("border.policy.yaml", policy),
        ("enforcer.yaml", configuration),
        ("feed.pub", key.read_text()),
    ):
        systemd.write(f"/etc/allowlist/{name}", text)
    # There is no journal here: what the service says goes to a file.
    systemd.write(
        f"/etc/systemd/system/{UNIT}.service.d/log.conf", "[Service]\nStandardOutput=file:/run/service.log\n"
    )
    systemd.shell("systemctl daemon-reload\n" + enable)


def status_fields(systemd, pid: str) -> dict[str, str]:
    lines = systemd.run("cat", f"/proc/{pid}/status").splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


@pytest.mark.timeout(150)
def test_the_unit_enforces_is_hardened_and_comes_back(lab, registry, tmp_path):  # noqa: F811
    assert passes(lab) == (True, True)  # control: nothing is enforced yet
    with private_systemd(lab, ROOT, tmp_path) as systemd:
        install(systemd, registry)
        # Type=notify: it is active when the enforcer says so.
        assert systemd.show(UNIT, "ActiveState") == "active"
        wait_until(lambda: passes(lab) == (True, False), 20)

        pid = systemd.show(UNIT, "MainPID")
        fields = status_fields(systemd, pid)
        user = systemd.run("id", "-u", "allowlist").strip()
        assert fields["Uid"].split() == [user] * 4 != ["0"] * 4
        assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 1 << _CAP_NET_ADMIN
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
        entering = ("nsenter", f"--target={pid}", "--mount")
        systemd.run("touch", "/etc/written")  # control: it can be written to, but not from the service
        assert systemd.run(*entering, "sh", "-c", "touch /etc/written || echo refused").strip() == "refused"

        systemd.run("systemctl", "restart", UNIT)
        again = systemd.show(UNIT, "MainPID")
        assert again != pid
        # The rules stay while it starts, and the kept list is in force at once.
        assert passes(lab) == (True, False)

        systemd.run("kill", "-STOP", again)
        assert passes(lab) == (True, False)
        wait_until(lambda: systemd.show(UNIT, "NRestarts") == "1", 40)  # WatchdogSec=10
        wait_until(lambda: systemd.show(UNIT, "ActiveState") == "active", 20)
        assert systemd.show(UNIT, "MainPID") not in (again, "0")
        assert passes(lab) == (True, False)

        systemd.run("systemctl", "kill", "--signal=KILL", UNIT)
        assert passes(lab) == (True, False)
        wait_until(lambda: systemd.show(UNIT, "NRestarts") == "2", 20)
        wait_until(lambda: systemd.show(UNIT, "ActiveState") == "active", 20)

        systemd.run("systemctl", "stop", UNIT)
        assert systemd.show(UNIT, "Result") == "success"
        assert passes(lab) == (True, False)  # the policy's agent-dead says keep
    assert not list(Path("/run/cgroup2").iterdir())
