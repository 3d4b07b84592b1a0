"""A lab that is kept running: entered, shown, captured, ended; and Mininet's command line on it.

These start worlds of their own, as a user does, so they need no world around them; the marker says what they need.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from testbed.lab.build import build
from testbed.lab.interactive import KeptLab, down, labs, up
from tests.small_plan import small_plan

ROOT = Path(__file__).resolve().parents[1]
MINIMAL = ROOT / "topologies" / "minimal.topology.yaml"

pytestmark = pytest.mark.world


def act(call: str, *, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """One user's command in a process of its own: a call of testbed.lab.interactive that gives an exit code."""
    source = f"import sys; from testbed.lab.interactive import *; sys.exit({call})"
    return subprocess.run(
        [sys.executable, "-c", source], input=stdin, capture_output=True, text=True, cwd=ROOT, timeout=60
    )


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    phases = []
    lab = up(MINIMAL, captures=["fra-vpn:9999"], on_progress=lambda phase, _text: phases.append(phase))
    assert phases[:2] == ["build", "routing"]
    yield lab
    if any(each.is_running for each in labs()):
        down()
    if before is None:
        del os.environ["XDG_STATE_HOME"]
    else:
        os.environ["XDG_STATE_HOME"] = before


def test_a_program_runs_on_a_node_with_its_output_and_exit_code(lab):
    done = act("execute('company', ('--', 'sh', '-c', 'ip -br address show eth0; exit 7'))")
    assert done.returncode == 7 and "10.21.100.2/28" in done.stdout


def test_nodes_reach_each_other_by_name_over_the_routed_network(lab):
    assert act("execute('company', ['ping', '-c1', '-W2', 'fra-services'])").returncode == 0
    assert act("execute('freelancer', ['ping', '-c1', '-W2', 'gateway'])").returncode == 0


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        ("execute('nope', ['true'])", 126, "there is no node 'nope'; nodes are company, "),
        ("execute('company', ['no-such-program'])", 127, "no-such-program: No such file or directory"),
        ("execute('company', ['sh', '-c', 'kill -9 $$'])", 137, ""),
    ],
)
def test_what_goes_wrong_with_a_program_has_a_shells_exit_code(lab, call, code, words):
    done = act(call)
    assert done.returncode == code and words in done.stderr


def test_a_request_to_end_reaches_the_program(lab):
    source = (
        "import sys; from testbed.lab.interactive import *; sys.exit(execute('company', ['sh', '-c', %r]))"
    )
    script = "trap 'echo asked; exit 5' TERM; echo started; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [sys.executable, "-c", source % script], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=10)[0] == "asked\n" and process.returncode == 5


def test_it_shows_nodes_addresses_programs_and_links(lab):
    found = json.loads(act("show(as_json=True)").stdout)
    nodes = {node["name"]: node for node in found["nodes"]}
    assert nodes["company"]["addresses"]["eth0"][0] == "10.21.100.2/28"
    assert [program["name"] for program in nodes["gateway"]["programs"]] == ["bird"]
    assert all(link["is_up"] for link in found["links"]) and found["died"] == []

    text = act("show()").stdout
    assert "NODE" in text and "100 Mbit/s, 20 ms" in text


def test_mininets_command_line_works_on_it(lab):
    script = "nodes\nnet\nlinks\ndump\ncompany ping -c1 domestic\nlink company fixed down\nlinks\nlink company fixed up\n"
    script += "company ping -c1 domestic\npy company.IP()\npx print(domestic.MAC())\ndpctl x\nexit\n"
    done = act("shell()", stdin=script)
    said = done.stdout + done.stderr
    assert done.returncode == 0
    assert said.count("1 packets transmitted, 1 received") == 2
    assert "company--fixed: company/eth0 <-> fixed/company (OK OK)" in said
    assert "company--fixed: company/eth0 <-> fixed/company (DOWN DOWN)" in said
    assert "<LabNode company: eth0:10.21.100.2 pid=" in said and "Not in this lab" in said


def test_what_ends_by_itself_is_told(lab):
    pids = [
        program["pid"]
        for node in json.loads(act("show(as_json=True)").stdout)["nodes"]
        if node["name"] == "fra-vpn"
        for program in node["programs"]
        if program["name"] == "wireguard-go"
    ]
    assert pids and act(f"execute('fra-vpn', ['sh', '-c', 'kill {pids[0]}'])").returncode == 0
    deadline = time.monotonic() + 10
    while not (died := json.loads(act("show(as_json=True)").stdout)["died"]):
        assert time.monotonic() < deadline, "nobody noticed"
    assert any("wireguard" in line for line in died)


def test_z_ending_it_leaves_its_captures_and_nothing_else(lab: KeptLab):
    assert lab.init_pid is not None
    send = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'needle', ('fra-vpn', 9999))"
    assert act(f"execute('company', ['python3', '-c', {send!r}])").returncode == 0
    assert Path(f"/proc/{lab.init_pid}").exists()

    (capture,) = down()

    assert b"needle" in capture.read_bytes()
    assert not Path(f"/proc/{lab.init_pid}").exists() and labs() == []
    assert act("execute('company', ['true'])").returncode != 0


def test_killing_the_keeper_ends_the_world(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    lab = up(MINIMAL, name="killed")
    assert lab.init_pid is not None and Path(f"/proc/{lab.init_pid}").exists()

    os.kill(lab.keeper_pid, signal.SIGKILL)

    deadline = time.monotonic() + 5
    while Path(f"/proc/{lab.init_pid}/ns/net").exists():
        assert time.monotonic() < deadline, "the world outlived its keeper"
        time.sleep(0.02)
    assert [each.is_running for each in labs()] == [False]
    down("killed")


def test_a_lab_as_mininet_objects(tmp_path):
    from testbed.lab.mininet_net import LabNet, plan_topo

    topo = plan_topo(small_plan())
    assert set(topo.nodes()) == {node.name for node in small_plan().nodes} and len(topo.links()) == 7
    assert topo.nodeInfo("isp1")["ip"] == "10.1.1.1/24"  # a router keeps its own address

    with build(small_plan(), tmp_path) as lab:
        net = LabNet(lab)
        alice, reg = net["alice"], net["reg"]
        assert alice.shell is None  # control: no shell before a command
        assert "10.1.1.2/24" in alice.cmd("ip -br address show eth0") and alice.shell.poll() is None
        assert (alice.IP(), reg.IP(), net["isp1"].IP(intf="gw")) == ("10.1.1.2", "10.1.9.10", "10.0.0.1")
        assert net.ping([alice, reg]) == 0
        assert alice.popen("ip -br address show eth0").communicate()[0].startswith(b"eth0")
        alice.sendCmd("sleep 100")
        alice.sendInt()
        assert alice.waitOutput().strip() in ("", "^C")
        lab.change_address("alice", "10.1.1.9", None)
        assert alice.IP() == "10.1.1.9"
        net.configLinkStatus("alice", "isp1", "down")
        assert net.ping([alice, reg]) == 100
        net.stop()
        assert alice.shell is None
