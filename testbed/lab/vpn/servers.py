"""All VPN servers of a plan, and the clients of its tunnels."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from testbed.lab.build import Lab
from testbed.lab.vpn import ipsec, l2tp, openconnect, openvpn, ppp, pptp, wireguard
from testbed.lab.vpn.client import BLACKHOLE_METRIC, RESTART_PAUSE_S, Program, VpnClient
from testbed.lab.vpn.ended import Ended
from testbed.lab.vpn.keys import CertificateAuthority, WireGuardKey, tls_crypt_key
from testbed.lab.vpn.site import Site, VpnFailed, VpnUnavailable, free_udp_port
from testbed.plan.plan import Subscriber, Tunnel, VpnServer

_MODULES = {
    "wireguard": wireguard,
    "openvpn-udp": openvpn,
    "openvpn-tcp": openvpn,
    "ikev2": ipsec,
    "openconnect": openconnect,
    "l2tp": l2tp,
    "pptp": pptp,
}
_OPTIONAL = {"openconnect", "l2tp", "pptp"}
_SUPERVISE_EVERY_S = 0.1


class _Server(Protocol):
    site: Site
    process: subprocess.Popen | None

    def start(self) -> None: ...

    def stop(self) -> None: ...


class VpnServers:
    """Use as a context manager, or start() and close().

    skipped: the optional servers that cannot run here, with the reason. The private folder with keys and configurations
    is in /tmp, which is the world's own.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.skipped: dict[str, str] = {}
        self._dir = Path(tempfile.mkdtemp(prefix="vpn-", dir="/tmp"))
        self._authority = CertificateAuthority()
        self._wrap_keys = {server.name: tls_crypt_key() for server in lab.plan.servers}
        self._server_keys = {server.name: WireGuardKey.new() for server in lab.plan.servers}
        self._client_keys = {tunnel.name: WireGuardKey.new() for tunnel in lab.plan.tunnels}
        self._passwords = {tunnel.name: ppp.password() for tunnel in lab.plan.tunnels}
        self._subscribers: dict[str, Subscriber] = {s.name: s for s in lab.plan.subscribers}
        self._running: dict[str, _Server] = {}
        self._clients: dict[str, VpnClient] = {}
        self._ports: dict[str, set[int]] = {}
        self._esp: dict[str, bool] = {}
        self._stopping = threading.Event()
        self._ended = Ended()
        self._supervisor: threading.Thread | None = None

    def __enter__(self) -> VpnServers:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> None:
        """Bring up all servers at once; returns when each listens and its inner address is there.

        Raises VpnUnavailable or VpnFailed naming every server that could not be brought up.
        """
        wanted = self._runnable()
        self._esp = {node: ipsec.kernel_has_esp(self.lab, node) for node in self._ipsec_nodes(wanted)}
        self._together(wanted, self.start_server)
        self._supervisor = threading.Thread(target=self._supervise, name="vpn-supervisor", daemon=True)
        self._supervisor.start()

    def start_server(self, name: str) -> None:
        """Start one server (again). Returns when it listens. Raises VpnFailed, KeyError for an unknown name."""
        server = self._running.get(name) or self._make_server(self._server(name))
        self._running[name] = server
        # Answers to a client whose session is gone must not leave in clear by the default route.
        server.site.ip(f"route replace blackhole {self._server(name).inner4} metric {BLACKHOLE_METRIC}")
        server.start()

    def stop_server(self, name: str) -> None:
        """End one server's program, as a fault does; health() does not complain about it."""
        self._running.pop(name).stop()

    def client(self, tunnel: Tunnel) -> VpnClient:
        """The client of a tunnel of the plan; the same object each time. Raises VpnUnavailable when its server was skipped."""
        if tunnel.server in self.skipped:
            raise VpnUnavailable(f"{tunnel.name}: server {tunnel.server}: {self.skipped[tunnel.server]}")
        if tunnel.name not in self._clients:
            self._clients[tunnel.name] = VpnClient(self._make_client(tunnel), self._ended.wake)
        return self._clients[tunnel.name]

    def echo_endpoints(self) -> list[tuple[str, str]]:
        """(node, address) of each running server's UDP echo, port 7; the addresses are there once start() has returned."""
        return [
            (server.node, server.inner_server4)
            for server in self.lab.plan.servers
            if server.name in self._running
        ]

    def wireguard_public_key(self, server: str) -> bytes:
        """The server's public key, which a WireGuard handshake needs: 32 bytes."""
        return self._server_keys[server].public

    def wireguard_client_key(self, tunnel: Tunnel) -> WireGuardKey:
        """A tunnel's own key pair: a probe with it is answered by the real server (while no session of it runs)."""
        return self._client_keys[tunnel.name]

    def tls_crypt_key(self, server: str) -> str:
        """The server's tls-crypt key file, which an OpenVPN handshake needs unless its option wrap is "none"."""
        return self._wrap_keys[server]

    def health(self) -> list[str]:
        """One sentence for each server or client that died, with its log's last lines; empty when all is well."""
        problems = []
        for name, server in self._running.items():
            process = server.process
            if process is not None and process.poll() is not None:
                problems.append(
                    f"{name} on {server.site.node}: server ended with code {process.returncode}: {server.site.log_end()}"
                )
        problems += [problem for client in self._clients.values() if (problem := client.health())]
        return problems

    def close(self) -> None:
        """Stop all clients, then all servers, and remove the keys. Safe to call twice."""
        self._stopping.set()
        self._ended.wake()
        if self._supervisor is not None:
            self._supervisor.join()
            self._supervisor = None
        self._ended.close()
        ends: list[Callable[[], None]] = [client.stop for client in self._clients.values()]
        for group in (ends, [server.stop for server in self._running.values()]):
            if group:
                with ThreadPoolExecutor(len(group)) as pool:
                    list(pool.map(lambda end: end(), group))
        self._running.clear()
        shutil.rmtree(self._dir, ignore_errors=True)

    def _runnable(self) -> list[str]:
        names, problems = [], []
        used = {tunnel.server for tunnel in self.lab.plan.tunnels}
        for server in self.lab.plan.servers:
            if self.lab.plan.clock == "virtual" and server.name not in used:
                continue  # a start is what costs there
            module = _MODULES[server.protocol]
            problems += option_problems(server)
            reason = module.missing()
            if reason is None:
                names.append(server.name)
            elif server.protocol in _OPTIONAL:
                self.skipped[server.name] = reason
            else:
                problems.append(f"{server.name} ({server.protocol}): {reason}")
        if problems:
            raise VpnUnavailable("; ".join(problems))
        return names

    def _together(self, names: list[str], start: Callable[[str], None]) -> None:
        if not names:
            return
        failures = []
        with ThreadPoolExecutor(len(names)) as pool:
            for future in [pool.submit(start, name) for name in names]:
                error = future.exception()
                if isinstance(error, (VpnFailed, OSError)):
                    failures.append(str(error))
                elif error is not None:
                    raise error
        if failures:
            raise VpnFailed("; ".join(failures))

    def _supervise(self) -> None:
        while not self._stopping.is_set():
            for client in list(self._clients.values()):
                client.supervise()
            if self.lab.plan.clock == "virtual":
                self._until_one_ends()
            else:
                self._stopping.wait(_SUPERVISE_EVERY_S)

    def _until_one_ends(self) -> None:
        """In virtual time each look costs real time, and outer flows are looked for when they are asked for: ends alone matter."""
        clients = list(self._clients.values())
        restarts = any(each.state == "restarting" for each in clients)
        self._ended.wait(
            [running for each in clients if (running := each.running) is not None],
            RESTART_PAUSE_S if restarts else None,
        )

    def _server(self, name: str) -> VpnServer:
        return next(server for server in self.lab.plan.servers if server.name == name)

    def _tunnels(self, server: VpnServer) -> list[Tunnel]:
        return [tunnel for tunnel in self.lab.plan.tunnels if tunnel.server == server.name]

    def _ipsec_nodes(self, names: list[str]) -> set[str]:
        servers = {s.name: s for s in self.lab.plan.servers if s.name in names and s.protocol == "ikev2"}
        clients = {self._subscribers[t.subscriber].node for t in self.lab.plan.tunnels if t.server in servers}
        return clients | {server.node for server in servers.values()}

    def _site(self, node: str, name: str, interface: str) -> Site:
        directory = self._dir / interface
        directory.mkdir(mode=0o700, exist_ok=True)
        return Site(self.lab, node, name, interface, directory)

    def _make_server(self, server: VpnServer) -> _Server:
        site = self._site(server.node, server.name, f"vpn{self.lab.plan.servers.index(server)}")
        tunnels = self._tunnels(server)
        if server.protocol == "wireguard":
            peers = [(self._client_keys[tunnel.name], tunnel) for tunnel in tunnels]
            return wireguard.WireGuardServer(site, server, self._server_keys[server.name], peers)
        if server.protocol in ("l2tp", "pptp"):
            kind = l2tp.L2tpServer if server.protocol == "l2tp" else pptp.PptpServer
            return kind(site, server, [self._login(tunnel) for tunnel in tunnels])
        addresses = tuple(address for address in (server.address4, server.address6) if address)
        own = self._authority.server(server.name, addresses)
        authority = self._authority.certificate
        if server.protocol == "ikev2":
            return ipsec.IpsecServer(site, server, authority, own, self._esp[server.node])
        named = [(self._common_name(tunnel), tunnel) for tunnel in tunnels]
        if server.protocol == "openconnect":
            return openconnect.OpenConnectServer(site, server, authority, own, named)
        return openvpn.OpenVpnServer(site, server, authority, own, self._wrap_keys[server.name], named)

    def _make_client(self, tunnel: Tunnel) -> Program:
        server = self._server(tunnel.server)
        node = self._subscribers[tunnel.subscriber].node
        site = self._site(node, tunnel.name, f"tun{self.lab.plan.tunnels.index(tunnel)}")
        if server.protocol == "wireguard":
            keys = self._client_keys[tunnel.name], self._server_keys[server.name]
            return wireguard.WireGuardClient(site, tunnel, server, *keys, self._free_port(site, tunnel))
        if server.protocol == "pptp":
            return pptp.PptpClient(site, tunnel, server, self._login(tunnel))
        if server.protocol == "l2tp":
            port = self._usual_ports(site, tunnel, l2tp.PORT)[0]
            return l2tp.L2tpClient(site, tunnel, server, self._login(tunnel), port)
        own, authority = self._authority.client(self._common_name(tunnel)), self._authority.certificate
        if server.protocol == "ikev2":
            ports = self._usual_ports(site, tunnel, 500, 4500)
            return ipsec.IpsecClient(
                site, tunnel, server, authority, own, (ports[0], ports[1]), self._esp[node]
            )
        if server.protocol == "openconnect":
            return openconnect.OpenConnectClient(site, tunnel, server, authority, own)
        return openvpn.OpenVpnClient(site, tunnel, server, authority, own, self._wrap_keys[server.name])

    def _login(self, tunnel: Tunnel) -> ppp.Login:
        return ppp.Login(self._common_name(tunnel), self._passwords[tunnel.name], tunnel)

    def _common_name(self, tunnel: Tunnel) -> str:
        """A name for the certificate that is also a file name."""
        return f"client{self.lab.plan.tunnels.index(tunnel)}"

    def _free_port(self, site: Site, tunnel: Tunnel) -> int:
        subscriber = self._subscribers[tunnel.subscriber]
        taken = self._ports.setdefault(site.node, set())
        return free_udp_port(site, subscriber.port_first, subscriber.port_last, taken)

    def _usual_ports(self, site: Site, tunnel: Tunnel, *usual: int) -> tuple[int, ...]:
        """The usual ones; others for a second client on the host, and in the subscriber's block behind a shared address."""
        taken = self._ports.setdefault(site.node, set())
        if self._subscribers[tunnel.subscriber].port_first is None and usual[0] not in taken:
            taken |= set(usual)
            return usual
        return tuple(self._free_port(site, tunnel) for _ in usual)


def option_problems(server: VpnServer) -> list[str]:
    """One sentence for each option the server's protocol does not have, or whose value it does not understand."""
    known = _MODULES[server.protocol].OPTIONS
    problems = []
    for name, value in server.options.items():
        if name not in known:
            problems.append(
                f"{server.name}: {server.protocol} has no option '{name}'; it has {', '.join(known)}"
            )
        elif not re.fullmatch(known[name], value):
            wanted = known[name].replace("|", " or ") if "|" in known[name] else "seconds, a whole number"
            problems.append(f"{server.name}: option {name} is '{value}'; write {wanted}")
    return problems
