"""Mininet's view of a lab: its Topo, Node and Link objects and its command line, over namespaces this project made.

The one module that imports Mininet; import it only where a shell is wanted. Nothing here makes or removes a network:
Mininet's own start-up (one fork for each command, `mnexec`, fixLimits) and its host-wide cleanup() are not used.
A node's shell starts when its first command is run.
"""

# Mininet has no annotations; what a type checker infers of its methods is narrower than what they mean.
# pyright: reportIncompatibleMethodOverride=false, reportAssignmentType=false

from __future__ import annotations

import shlex
import subprocess
import sys
import types
from collections.abc import Sequence
from typing import Any

from testbed.lab import netlink_route
from testbed.lab.build import Lab, Port
from testbed.plan.plan import Link, Node, Plan


def _provide_distutils() -> None:
    """Mininet's node.py imports distutils.version.StrictVersion, which Python 3.12 removed, and uses it for Open vSwitch only."""
    try:
        import distutils.version  # noqa: F401
    except ImportError:
        package, version = types.ModuleType("distutils"), types.ModuleType("distutils.version")
        version.StrictVersion = str  # type: ignore[attr-defined]
        package.version = version  # type: ignore[attr-defined]
        sys.modules.update({"distutils": package, "distutils.version": version})


_provide_distutils()

import mininet.cli  # noqa: E402
import mininet.link  # noqa: E402
import mininet.log  # noqa: E402
import mininet.net  # noqa: E402
import mininet.node  # noqa: E402
import mininet.topo  # noqa: E402

_ROUTERS = ("gateway", "isp", "exchange", "abroad")


def plan_topo(plan: Plan) -> mininet.topo.Topo:
    """The plan as a Mininet Topo: every node a host with its first address as `ip`, every link with its plan entry as `plan`."""
    topo = mininet.topo.Topo()
    first: dict[str, str] = {}
    for link in plan.links:
        for end in (link.a, link.b):
            if end.ipv4:
                first.setdefault(end.node, end.ipv4[0])
    for node in plan.nodes:
        # Without `ip` Mininet would give a router the next 10.0.0.x in place of its own address.
        topo.addHost(node.name, ip=first.get(node.name, node.loopback4), kind=node.kind, plan=node)
    for link in plan.links:
        topo.addLink(link.a.node, link.b.node, intfName1=link.a.name, intfName2=link.b.name, plan=link)
    return topo


class LabNode(mininet.node.Node):
    """A node of a lab as a Mininet Node: cmd, sendCmd, popen, pexec, IP, MAC and the interfaces work as in Mininet."""

    def __init__(self, lab: Lab, node: Node) -> None:
        self.lab, self.plan = lab, node
        self._is_shell_wanted = False
        super().__init__(node.name)

    @classmethod
    def checkSetup(cls) -> None:  # noqa: N802
        """Nothing to set up: neither mnexec nor ifconfig is used."""

    def startShell(self, mnopts: str | None = None) -> None:  # noqa: N802
        """Called by Mininet when the node is made; the shell itself waits for the first command."""
        if self._is_shell_wanted and not self.shell:
            super().startShell(mnopts)

    def cmd(self, *args: Any, **kwargs: Any) -> str:
        self._want_shell()
        return super().cmd(*args, **kwargs) or ""

    def sendCmd(self, *args: Any, **kwargs: Any) -> None:  # noqa: N802
        self._want_shell()
        if kwargs.pop("printPid", False):
            # Mininet would put "mnexec -p" in front, which prints the process id between ^A and a newline.
            words = args[0] if len(args) == 1 and isinstance(args[0], list) else args
            command = " ".join(str(word) for word in words)
            args = (
                f"sh -c {shlex.quote('printf ' + shlex.quote(chr(92) + '001%d' + chr(92) + '012') + ' $$; exec ' + command)}",
            )
        super().sendCmd(*args, **kwargs)

    def popen(self, *args: Any, **kwargs: Any) -> subprocess.Popen[Any]:
        # No "mnexec -a PID" in front: _popen is inside the namespace already.
        if kwargs.pop("shell", False):
            words = args[0] if len(args) == 1 and isinstance(args[0], list) else args
            args = (["sh", "-c", " ".join(words)],)
        return super().popen(*args, **{"mncmd": [], **kwargs})

    def _popen(self, cmd: Sequence[str], **params: Any) -> subprocess.Popen[Any]:
        if cmd[0] == "mnexec":
            # Mininet's shell: instead of mnexec's own session (-d) and namespace (-n), setsid and ours; with a
            # controlling terminal, so that an interrupt written to it reaches the running command.
            cmd = ["setsid", "--ctty", *cmd[2:]]
            params["close_fds"] = True
        with self.lab.inside(self.plan.name):
            return subprocess.Popen(list(cmd), **params)

    def _want_shell(self) -> None:
        if not self.shell:
            self._is_shell_wanted = True
            self.startShell()


class LabIntf(mininet.link.Intf):
    """An interface of a lab; its address, MAC and state are asked from the kernel each time."""

    def __init__(self, node: LabNode, port: Port, link: LabLink) -> None:
        self._lab, self._port, self._link = node.lab, port, link
        super().__init__(port.interface.name, node, link=link, moveIntfFn=lambda *_: None)  # type: ignore[arg-type]
        self.mac = port.mac.hex(":")

    def config(self, **_params: Any) -> dict[str, Any]:
        """Configured already."""
        return {}

    def updateIP(self) -> str | None:  # noqa: N802
        with self._lab.netlink(self._port.interface.node) as connection:
            found = netlink_route.addresses(connection).get(self._port.index, [])
        first = next((address for address in found if "." in address), None)
        self.ip, self.prefixLen = first.split("/") if first else (None, None)
        return self.ip

    def updateMAC(self) -> str:  # noqa: N802
        return self._port.mac.hex(":")

    def updateAddr(self) -> tuple[str | None, str]:  # noqa: N802
        return self.updateIP(), self.updateMAC()

    def IP(self) -> str | None:  # noqa: N802
        return self.updateIP()

    def isUp(self, setUp: bool = False) -> bool:  # noqa: N802, N803
        if setUp:
            self._link.configure("up")
        with self._lab.netlink(self._port.interface.node) as connection:
            found = netlink_route.links(connection)
        return any(link.index == self._port.index and link.is_up for link in found)

    def status(self) -> str:
        return "OK" if self.isUp() else "DOWN"


class LabLink(mininet.link.Link):
    """A link of a lab; Mininet's constructor would make a veth pair, this one makes nothing."""

    def __init__(self, lab: Lab, link: Link, a: LabNode, b: LabNode) -> None:
        self.lab, self.plan = lab, link
        self.intf1 = LabIntf(a, lab.port(link.a.node, link.a.name), self)
        self.intf2 = LabIntf(b, lab.port(link.b.node, link.b.name), self)

    def configure(self, status: str) -> None:
        """status: "up" or "down"."""
        (self.lab.link_up if status == "up" else self.lab.link_down)(self.plan.name)

    def stop(self) -> None:
        """The lab outlives this view of it."""

    delete = stop

    def __str__(self) -> str:
        return f"{self.plan.name}: {self.plan.a.node}/{self.intf1} <-> {self.plan.b.node}/{self.intf2}"


class LabNet(mininet.net.Mininet):
    """A running lab as a Mininet network. hosts are all nodes; pings and iperf take the end hosts unless told otherwise."""

    def __init__(self, lab: Lab) -> None:
        # Mininet.__init__ is not called: it would raise resource limits of the host's and start from an empty network.
        self.lab = lab
        self.topo = plan_topo(lab.plan)
        self.built = True
        self.terms: list[Any] = []
        self.switches: list[Any] = []
        self.controllers: list[Any] = []
        self.hosts = [LabNode(lab, node) for node in lab.plan.nodes]
        self.nameToNode = {node.name: node for node in self.hosts}
        self.links = [
            LabLink(lab, link, self.nameToNode[link.a.node], self.nameToNode[link.b.node])
            for link in lab.plan.links
        ]

    def end_hosts(self) -> list[LabNode]:
        return [node for node in self.hosts if node.plan.kind not in _ROUTERS]

    def build(self) -> None:
        """Built already."""

    def start(self) -> None:
        """Started already."""

    def stop(self) -> None:
        """End the shells; the lab stays."""
        for node in self.hosts:
            node.terminate()

    def ping(self, hosts: Sequence[LabNode] | None = None, timeout: str | None = None) -> float:
        """Loss in per cent between each pair of the hosts (default: the end hosts), one packet each, one second."""
        return super().ping(hosts or self.end_hosts(), timeout or "1")

    def pingFull(self, hosts: Sequence[LabNode] | None = None, timeout: str | None = None) -> list[Any]:  # noqa: N802
        return super().pingFull(hosts or self.end_hosts(), timeout or "1")

    def pingPair(self) -> float:  # noqa: N802
        return self.ping(self.end_hosts()[:2])

    def pingPairFull(self) -> list[Any]:  # noqa: N802
        return self.pingFull(self.end_hosts()[:2])

    def iperf(
        self,
        hosts: Sequence[LabNode] | None = None,
        l4Type: str = "TCP",  # noqa: N803
        udpBw: str = "10M",  # noqa: N803
        seconds: int = 5,
        **_: Any,
    ) -> str:  # noqa: N803
        """Throughput from the second host to the first by iperf3 (default: first and last end host), as its last lines."""
        client, server = hosts or (self.end_hosts()[0], self.end_hosts()[-1])
        mininet.log.output(f"*** iperf3 {l4Type} from {server} to {client}\n")
        listening = server.popen(["iperf3", "--server", "--one-off", "--port", "5001"])
        argv = ["iperf3", "--client", server.IP(), "--port", "5001", "--reverse", "--time", str(seconds)]
        argv += ["--connect-timeout", "3000"] + (["--udp", "--bitrate", udpBw] if l4Type == "UDP" else [])
        try:
            _wait_listening(server, 5001)
            out, err, code = client.pexec(argv)
        finally:
            listening.terminate()
            listening.communicate()
        text = "\n".join(out.splitlines()[-5:]) if code == 0 else (out + err).strip()
        mininet.log.output(f"*** Results: {text}\n")
        return text

    def configLinkStatus(self, src: str, dst: str, status: str) -> None:  # noqa: N802
        """Cut ("down") or mend ("up") every link between two nodes."""
        found = [link for link in self.links if {link.plan.a.node, link.plan.b.node} == {src, dst}]
        if not found:
            mininet.log.error(f"there is no link between {src} and {dst}\n")
        for link in found:
            link.configure(status)

    def interact(self) -> None:
        """Mininet's command line until the user leaves it."""
        mininet.log.setLogLevel("info")
        try:
            LabCli(self)
        finally:
            self.stop()


class LabCli(mininet.cli.CLI):
    """Mininet's command line without what a lab has not: OpenFlow switches and X terminals. It writes no history file."""

    prompt = "allowlab> "

    @classmethod
    def initReadline(cls) -> None:  # noqa: N802
        try:
            import readline  # noqa: F401
        except ImportError:
            return

    def emptyline(self) -> bool:
        return False

    def _not_here(self, _line: str) -> None:
        """Not in this lab: its routers are Linux and BIRD, and shells are opened with './allowlab exec NODE -- bash'."""
        mininet.log.error(f"{self._not_here.__doc__}\n")

    do_dpctl = do_switch = do_ports = do_xterm = do_gterm = do_x = _not_here


def _wait_listening(node: LabNode, port: int) -> None:
    """Until something listens on the TCP port, at most three seconds."""
    script = (
        f"for _ in $(seq 150); do ss -Hltn sport = {port} | grep -q . && exit 0; sleep 0.02; done; exit 1"
    )
    _out, _err, code = node.pexec(["sh", "-c", script])
    if code != 0:
        raise RuntimeError(f"iperf3 on {node.name} does not listen on port {port}; is it installed?")
