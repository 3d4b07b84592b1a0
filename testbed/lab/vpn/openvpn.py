"""OpenVPN 2.6 over UDP and TCP, with the run's small CA and tls-crypt; TCP_NODELAY on both ends.

Without TCP_NODELAY a lone packet waits for the next one (10 ms instead of 0.4 ms, measured). Whether tunnels come back
3 or 50 s after a drop is decided by the timers: option `timers` is "default" (the sample configuration's keepalive
10 120 and the program's own back-off: connect-retry 1 300, hand-window 60, control packets again after 2, 4, 8, … s)
or "bounded" (keepalive 2 10, one second between tries: back within about 3 s).
"""

from __future__ import annotations

import subprocess

from testbed.lab.vpn.keys import Certificate
from testbed.lab.vpn.site import (
    START_DEADLINE_S,
    Site,
    end_process,
    missing_programs,
    netmask,
)
from testbed.lab.vpn.sockets import is_bound, sockets_of
from testbed.plan.plan import Tunnel, VpnServer

OPTIONS = {
    "timers": "default|bounded",
    "keepalive_s": r"[1-9]\d*( [1-9]\d*)?",
    "wrap": "tls-crypt|none",
}

_KEEPALIVE = {"default": "10 120", "bounded": "2 10"}
_BOUNDED = {
    "udp": "connect-retry 1 2\nhand-window 10\ntls-timeout 1\n",
    "tcp": "connect-retry 1 2\nhand-window 10\nconnect-timeout 5\n",
}
_BOTH = """\
dev-type tun
dev {interface}
topology subnet
persist-tun
persist-key
disable-dco
verb 3
"""


def missing() -> str | None:
    """Why OpenVPN cannot run here, or None."""
    return missing_programs({"openvpn": "openvpn"})


class OpenVpnServer:
    def __init__(
        self,
        site: Site,
        server: VpnServer,
        authority: str,
        own: Certificate,
        wrap_key: str,
        tunnels: list[tuple[str, Tunnel]],
    ) -> None:
        """tunnels: the clients' common names and their tunnels; each gets the inner address of the plan."""
        self.site, self.server = site, server
        self.process: subprocess.Popen | None = None
        self._secrets = _secrets(authority, own, _wrap(server, wrap_key))
        self._tunnels = tunnels

    def start(self) -> None:
        """Returns when it listens and its inner address is there. Raises VpnFailed."""
        transport = _transport(self.server)
        mask = netmask(self.server.inner4)
        clients = self.site.dir / "clients"
        clients.mkdir(mode=0o700, exist_ok=True)
        for name, tunnel in self._tunnels:
            self.site.write(f"clients/{name}", f"ifconfig-push {tunnel.inner4.partition('/')[0]} {mask}\n")
        config = _BOTH.format(interface=self.site.interface)
        family = "6" if self.server.address6 else "4"
        config += (
            f"proto {transport}{family}{'-server' if transport == 'tcp' else ''}\nport {self.server.port}\n"
        )
        # One UDP socket for all addresses of the node has to answer from the one that was asked.
        config += "multihome\n" if transport == "udp" else "socket-flags TCP_NODELAY\n"
        config += f'mode server\ntls-server\ndh none\nifconfig {self.server.inner_server4} {mask}\npush "topology subnet"\n'
        config += f"client-config-dir {clients}\nccd-exclusive\nkeepalive {_keepalive(self.server)}\n"
        path = self.site.write("server.conf", config + self._secrets)
        self.process = self.site.spawn(["openvpn", "--config", str(path)])
        self.site.await_state(self._is_ready, "listened", self.process, START_DEADLINE_S)

    def stop(self) -> None:
        end_process(self.process)

    def _is_ready(self) -> bool:
        assert self.process is not None
        return is_bound(
            self.process.pid, _transport(self.server), self.server.port
        ) and self.site.has_address(self.server.inner_server4)


class OpenVpnClient:
    exits_on_failure = False

    def __init__(
        self,
        site: Site,
        tunnel: Tunnel,
        server: VpnServer,
        authority: str,
        own: Certificate,
        wrap_key: str,
    ) -> None:
        self.site, self.tunnel, self.server = site, tunnel, server
        self.inner_interface = site.interface
        self.process: subprocess.Popen | None = None
        self._secrets = _secrets(authority, own, _wrap(server, wrap_key))

    def start(self) -> None:
        transport = _transport(self.server)
        outer = self.server.address4 if self.tunnel.family == 4 else self.server.address6
        config = "client\n" + _BOTH.format(interface=self.site.interface)
        config += f"proto {transport}{self.tunnel.family}{'-client' if transport == 'tcp' else ''}\n"
        config += f"remote {outer} {self.server.port}\nremote-cert-tls server\n"
        # An ephemeral port for each connection: a server ignores a client that begins anew from its old session's port.
        config += "nobind\n" if transport == "udp" else "nobind\nsocket-flags TCP_NODELAY\n"
        if self.server.options.get("timers") == "bounded":
            config += _BOUNDED[transport]
        path = self.site.write("client.conf", config + self._secrets)
        self.process = self.site.spawn(["openvpn", "--config", str(path)])

    def stop(self) -> None:
        end_process(self.process)

    def outer(self) -> tuple[str, int, int]:
        """Transport, local port (0: no socket now), remote port."""
        transport = _transport(self.server)
        return transport, local_port(self.process, transport, self.server.port), self.server.port


def local_port(process: subprocess.Popen | None, transport: str, remote_port: int) -> int:
    """The local port of the process's socket towards remote_port, an established TCP connection first; 0 without any."""
    if process is None or process.poll() is not None:
        return 0
    found = [
        each
        for each in sockets_of(process.pid)
        if each.transport == transport and each.remote_port in (remote_port, 0)
    ]
    found.sort(key=lambda each: (each.is_established, each.remote_port), reverse=True)
    return found[0].local_port if found else 0


def _transport(server: VpnServer) -> str:
    return "tcp" if server.protocol == "openvpn-tcp" else "udp"


def _keepalive(server: VpnServer) -> str:
    """Ping interval and restart, in seconds; `keepalive_s` is "10 60", or "10" for the manual's ratio of 1 to 6."""
    given = server.options.get("keepalive_s")
    if given is None:
        return _KEEPALIVE[server.options.get("timers", "default")]
    interval, _, restart = given.partition(" ")
    return f"{interval} {restart or int(interval) * 6}"


def _wrap(server: VpnServer, key: str) -> str:
    return key if server.options.get("wrap", "tls-crypt") == "tls-crypt" else ""


def _secrets(authority: str, own: Certificate, wrap_key: str) -> str:
    text = f"<ca>\n{authority}</ca>\n<cert>\n{own.certificate}</cert>\n<key>\n{own.key}</key>\n"
    return text + (f"<tls-crypt>\n{wrap_key}</tls-crypt>\n" if wrap_key else "")
