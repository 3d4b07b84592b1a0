"""Nothing of a world reaches the host, and nothing of it outlives its outer process, however that ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testbed.world import WorldError, open_world, run_inside

pytestmark = pytest.mark.world(inside=False)

ROOT = Path(__file__).resolve().parents[1]
# Does everything a lab does, and what it must not: links, namespaces, rules, mounts, sysctls, daemons that ignore signals.
NAUGHTY = """
ip link add evil0 type veth peer name evil1; ip link set evil0 up; ip netns add evil
nft add table inet evil; mount -t tmpfs evil /mnt; hostname evil
echo 1 > /proc/sys/net/ipv4/ip_forward; echo 77 > /proc/sys/kernel/panic
touch /tmp/evil /run/evil
for i in 1 2 3; do setsid sh -c 'trap "" TERM INT HUP; echo evil > /dev/null; exec sleep 1000' & done
"""
OUTER = """
import json, sys
from testbed.world import open_world
with open_world(["sh", "-c", sys.argv[1] + "\\necho started; sleep 1000"], stdout=-1) as world:
    world.stdout.readline()
    print(world.process.pid, flush=True)
    world.wait()
"""
USERS = ["as-it-is"] + (["ordinary-user"] if os.geteuid() == 0 else [])


@pytest.fixture(scope="module", autouse=True)
def _worlds_are_possible() -> None:
    try:
        run_inside(["true"])
    except WorldError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("user", USERS)
def test_a_world_that_ends_by_itself_leaves_the_host_as_it_was(user: str) -> None:
    before = host_state()

    done = subprocess.run(
        [*as_user(user), "-c", "import sys; from testbed.world import run_inside; sys.exit(run_inside(['sh', '-c', sys.argv[1] + 'exit 7']))", NAUGHTY],
        env=environment(), capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip

    assert done.returncode == 7, done.stderr
    assert host_state() == before


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_killing_the_outer_process_ends_everything(user: str, number: signal.Signals) -> None:
    before = host_state()
    with outer(user) as (process, keeper):
        inside = processes_in(pid_namespace(first_process(keeper)))
        assert len(inside) >= 5  # control: init, the shell, three daemons

        process.send_signal(number)

        assert_gone(inside)
    assert host_state() == before


def test_killing_the_keeper_ends_everything() -> None:
    with outer("as-it-is") as (_, keeper):
        inside = processes_in(pid_namespace(first_process(keeper)))
        assert len(inside) >= 5

        os.kill(keeper, signal.SIGKILL)

        assert_gone(inside)


def test_the_lifeline_alone_ends_a_world() -> None:
    """Without the parent-death signal: the outer process closes its end and lives on."""
    with open_world(["sh", "-c", "trap '' INT; echo ready; sleep 1000"], stdout=subprocess.PIPE) as world:
        assert world.stdout is not None and world.stdout.readline() == b"ready\n"
        inside = processes_in(pid_namespace(first_process(world.process.pid)))
        assert len(inside) >= 2

        os.close(world._lifeline)  # type: ignore[arg-type]
        world._lifeline = None

        assert world.wait(10) == 137
        assert_gone(inside)


def test_two_worlds_side_by_side_have_the_same_names_and_do_not_meet() -> None:
    script = "ip link add same type bridge && ip netns add same && echo up && sleep 1000"
    with open_world(["sh", "-c", script], stdout=subprocess.PIPE) as one:
        with open_world(["sh", "-c", script], stdout=subprocess.PIPE) as two:
            for world in (one, two):
                assert world.stdout is not None and world.stdout.readline() == b"up\n"
            assert pid_namespace(first_process(one.process.pid)) != pid_namespace(
                first_process(two.process.pid)
            )


def test_a_stop_request_arrives_once_and_may_clean_up() -> None:
    script = "trap 'echo cleaning; exit 130' INT; echo ready; while :; do sleep 0.05; done"
    with open_world(["sh", "-c", script], stdout=subprocess.PIPE) as world:
        assert world.stdout is not None and world.stdout.readline() == b"ready\n"

        world.stop()

        assert world.stdout.read() == b"cleaning\n"
        assert world.wait(5) == 130


def test_kill_does_not_wait_for_a_program_that_will_not_stop() -> None:
    with open_world(
        ["sh", "-c", "trap '' INT TERM; echo ready; sleep 1000"], stdout=subprocess.PIPE
    ) as world:
        assert world.stdout is not None and world.stdout.readline() == b"ready\n"
        world.stop()

        world.kill()

        assert world.wait(5) == 137


def test_ctrl_c_of_the_outer_is_one_request_inside() -> None:
    script = (
        "import sys; from testbed.world import run_inside; sys.exit(run_inside(['sh', '-c', sys.argv[1]]))"
    )
    inner = "trap 'echo once; sleep 0.2; exit 5' INT; sleep 0.5; echo ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [sys.executable, "-c", script, inner],
        env=environment(),
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"

        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole foreground process group

        assert process.stdout.read() == b"once\n"
        assert process.wait(5) == 5


def test_only_the_network_sysctls_can_be_written() -> None:
    script = "echo 1 > /proc/sys/net/ipv4/ip_forward && cat /proc/sys/net/ipv4/ip_forward; echo 9 > /proc/sys/kernel/panic"
    with open_world(["sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as world:
        out, err = world.process.communicate(timeout=5)

    assert out == b"1\n"
    assert b"panic" in err and world.wait() != 0


def test_folders_below_tmp_stay_visible_only_when_kept(tmp_path: Path) -> None:
    shown, hidden = tmp_path / "shown", tmp_path / "hidden"
    for folder in (shown, hidden):
        folder.mkdir()
    script = f"echo inside > {shown}/written; test -e {hidden} && exit 9; touch /tmp/lost"

    if not tmp_path.is_relative_to("/tmp"):
        pytest.skip("the temporary folder is not below /tmp here")
    assert run_inside(["sh", "-c", script], keep=[shown], cwd=Path("/")) == 0

    assert (shown / "written").read_text() == "inside\n"
    assert not Path("/tmp/lost").exists()


def test_a_program_that_cannot_be_run_is_an_error_that_names_it() -> None:
    with pytest.raises(WorldError, match="no-such-program: cannot be run inside the world: No such file"):
        run_inside(["no-such-program"])


def test_the_exit_code_is_the_programs_and_128_more_for_a_signal() -> None:
    assert run_inside(["sh", "-c", "exit 42"]) == 42
    assert run_inside(["sh", "-c", "kill -9 $$"]) == 137


def test_orphans_are_reaped() -> None:
    script = "for i in 1 2 3 4 5; do (sleep 0.01 &) ; done; sleep 0.3; grep -l '^State:.Z' /proc/[0-9]*/status | wc -l"
    with open_world(["sh", "-c", script], stdout=subprocess.PIPE) as world:
        assert world.process.communicate(timeout=5)[0] == b"0\n"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def as_user(user: str) -> list[str]:
    """The command prefix that runs Python as that user (nobody: made on no machine, there on all)."""
    if user == "as-it-is":
        return [sys.executable]
    drop = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "env",
    ]  # env: setpriv itself may still execute what root may
    for python in (sys.executable, "/usr/bin/python3"):
        if not subprocess.run([*drop, python, "-c", "import sys; assert sys.version_info >= (3, 11)"], capture_output=True, check=False).returncode:  # fmt: skip
            return [*drop, python]
    pytest.skip("no Python here that an ordinary user may run")


@contextmanager
def outer(user: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process that holds a world with NAUGHTY in it open, and the world's keeper."""
    argv = [*as_user(user), "-c", OUTER, NAUGHTY]
    with subprocess.Popen(
        argv, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def first_process(keeper: int) -> int:
    return int(Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()[0])


def pid_namespace(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/pid").readlink())


def processes_in(namespace: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str((entry / "ns/pid").readlink()) == namespace:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def assert_gone(pids: list[int], within_s: float = 5.0) -> None:
    wait_until(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()], within_s)


def wait_until(condition: Callable[[], bool], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.01)


def host_state() -> dict[str, object]:
    """What a world must not change: of this process's own namespaces, which other worlds on the machine do not share."""
    nft = [shutil.which("nft") or "/usr/sbin/nft", "-j", "list", "ruleset"]
    rules = subprocess.run(nft, capture_output=True, text=True, check=False).stdout
    return {
        "interfaces": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "named namespaces": sorted(path.name for path in Path("/run/netns").glob("*")),
        "mounts": [line.split(" ", 1)[1] for line in Path("/proc/self/mountinfo").read_text().splitlines() if "pytest-of" not in line],
        "rules": [each for each in json.loads(rules)["nftables"] if "metainfo" not in each] if rules else [],
        "sysctls": {str(path): read(path) for path in sysctls()},
        "evil files": [str(path) for path in (Path("/tmp/evil"), Path("/run/evil"), Path("/mnt/evil")) if path.exists()],
        "hostname": os.uname().nodename,
    }  # fmt: skip


def sysctls() -> list[Path]:
    """All of net, and the host-wide ones that are settings (the rest of /proc/sys counts things)."""
    net = [path for path in Path("/proc/sys/net").rglob("*") if path.is_file() and "count" not in path.name]
    return [
        *net,
        *map(Path, ("/proc/sys/kernel/panic", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/swappiness")),
    ]


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        return str(error.errno)
