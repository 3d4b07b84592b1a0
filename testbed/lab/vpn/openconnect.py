"""OpenConnect: ocserv and openconnect over TLS, with DTLS for the data when option `transport` is "dtls" (the default).

On the wire it is HTTPS by its headers. The client leaves when its first connection fails, so the supervisor starts it
again. Option `dpd_s` turns on dead-peer detection, off by default: it turns recovery at once into 5 to 64 s (measured).
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from testbed.lab.vpn.keys import Certificate
from testbed.lab.vpn.openvpn import local_port
from testbed.lab.vpn.site import (
    START_DEADLINE_S,
    Site,
    end_process,
    in_url,
    missing_programs,
    netmask,
    prefix_length,
)
from testbed.lab.vpn.sockets import is_bound
from testbed.plan.plan import Tunnel, VpnServer

OPTIONS = {"transport": "tls|dtls", "dpd_s": r"[1-9]\d*"}

_SERVER = """\
auth = "certificate"
cert-user-oid = 2.5.4.3
server-cert = {dir}/cert.pem
server-key = {dir}/key.pem
ca-cert = {dir}/ca.pem
tcp-port = {port}
{udp}
socket-file = {dir}/s
pid-file = {dir}/pid
isolate-workers = false
use-occtl = false
max-ban-score = 0
rate-limit-ms = 0
keepalive = 3600
dpd = {dpd}
mobile-dpd = {dpd}
try-mtu-discovery = false
cookie-timeout = 300
deny-roaming = false
rekey-time = 0
device = {device}
ipv4-network = {network}
ipv4-netmask = {mask}
ping-leases = false
route = {network}/{mask}
config-per-user = {dir}/clients/
"""

# openconnect hands the interface to a script (vpnc-script's contract); this one touches the tunnel and nothing else.
_SCRIPT = """\
#!/bin/sh
case "$reason" in
connect|reconnect)
  ip link set dev "$TUNDEV" up mtu "$INTERNAL_IP4_MTU" &&
  ip address replace "$INTERNAL_IP4_ADDRESS/{prefix}" dev "$TUNDEV" ;;
esac
"""


def missing() -> str | None:
    """Why OpenConnect cannot run here, or None."""
    return missing_programs({"ocserv": "ocserv", "openconnect": "openconnect"})


class OpenConnectServer:
    def __init__(
        self,
        site: Site,
        server: VpnServer,
        authority: str,
        own: Certificate,
        tunnels: list[tuple[str, Tunnel]],
    ) -> None:
        self.site, self.server = site, server
        self.process: subprocess.Popen | None = None
        self._authority, self._own, self._tunnels = authority, own, tunnels

    def start(self) -> None:
        """Returns when it listens. Raises VpnFailed."""
        directory, network = self.site.dir, self.server.inner4.partition("/")[0]
        (directory / "clients").mkdir(mode=0o700, exist_ok=True)
        for name, tunnel in self._tunnels:
            self.site.write(f"clients/{name}", f"explicit-ipv4 = {tunnel.inner4.partition('/')[0]}\n")
        for name, text in (("ca", self._authority), ("cert", self._own.certificate), ("key", self._own.key)):
            self.site.write(f"{name}.pem", text)
        config = _SERVER.format(
            dir=directory,
            port=self.server.port,
            udp=f"udp-port = {self.server.port}" if _is_dtls(self.server) else "",
            dpd=self.server.options.get("dpd_s", "86400"),
            device=self.site.interface,
            network=network,
            mask=netmask(self.server.inner4),
        )
        path = self.site.write("ocserv.conf", config)
        # ocserv has an interface for each client and none before the first: the echo needs its address all along.
        self.site.ip(f"address replace {self.server.inner_server4}/32 dev lo")
        argv = ["ocserv", "--foreground", "--config", str(path)]
        self.process = self.site.spawn(argv if _may_set_groups() else self._without_groups(argv))
        self.site.await_state(self._is_ready, "listened", self.process, START_DEADLINE_S)

    def stop(self) -> None:
        end_process(self.process, patience_s=0.2)  # it tells its clients at once and then lingers

    def _without_groups(self, argv: list[str]) -> list[str]:
        """The command where setgroups(2) is forbidden, as in an ordinary user's user namespace.

        ocserv's workers always set their group, and end when they cannot, unless it is -1: "leave it alone". So ocserv
        gets an /etc/group of its own in which its group has that number.
        """
        groups = self.site.write("group", "root:x:0:\nunchanged:x:4294967295:\n")
        with (self.site.dir / "ocserv.conf").open("a", encoding="utf-8") as config:
            config.write("run-as-group = unchanged\n")
        bind = 'mount --bind "$0" /etc/group && exec "$@"'
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", bind, str(groups), *argv]

    def _is_ready(self) -> bool:
        assert self.process is not None
        kinds = ("tcp", "udp") if _is_dtls(self.server) else ("tcp",)
        return all(is_bound(self.process.pid, kind, self.server.port) for kind in kinds)


class OpenConnectClient:
    exits_on_failure = True

    def __init__(
        self, site: Site, tunnel: Tunnel, server: VpnServer, authority: str, own: Certificate
    ) -> None:
        self.site, self.tunnel, self.server = site, tunnel, server
        self.inner_interface = site.interface
        self.process: subprocess.Popen | None = None
        self._authority, self._own = authority, own

    def start(self) -> None:
        outer = self.server.address4 if self.tunnel.family == 4 else self.server.address6
        assert outer is not None
        files = {"ca": self._authority, "cert": self._own.certificate, "key": self._own.key}
        paths = {name: self.site.write(f"{name}.pem", text) for name, text in files.items()}
        script = self.site.write("script", _SCRIPT.format(prefix=prefix_length(self.server.inner4)), 0o700)
        argv = ["openconnect", "--non-inter", "--protocol=anyconnect", f"--interface={self.site.interface}"]
        argv += [f"--cafile={paths['ca']}", "--no-system-trust", f"--certificate={paths['cert']}"]
        argv += [f"--sslkey={paths['key']}", f"--script={script}", "--disable-ipv6"]
        argv += [] if _is_dtls(self.server) else ["--no-dtls"]
        argv += [f"https://{in_url(outer, self.server.port)}/"]
        self.process = self.site.spawn(argv)

    def stop(self) -> None:
        end_process(self.process)

    def outer(self) -> tuple[str, int, int]:
        """Transport, local port, remote port: of the DTLS once it has a socket, else of the TLS connection (0: none)."""
        if _is_dtls(self.server) and (port := local_port(self.process, "udp", self.server.port)):
            return "udp", port, self.server.port
        return "tcp", local_port(self.process, "tcp", self.server.port), self.server.port


def _may_set_groups() -> bool:
    """Whether this user namespace allows setgroups(2) (user_namespaces(7))."""
    return Path("/proc/self/setgroups").read_text("ascii").strip() == "allow"


def _is_dtls(server: VpnServer) -> bool:
    return server.options.get("transport", "dtls") == "dtls"
