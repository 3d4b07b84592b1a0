"""WireGuard: the kernel's where the module is there (set with `wg`), else wireguard-go over its UAPI socket.

UAPI: https://www.wireguard.com/xplatform/#configuration-protocol
"""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from testbed.lab.vpn.keys import WireGuardKey
from testbed.lab.vpn.site import (
    START_DEADLINE_S,
    Site,
    VpnFailed,
    end_process,
    in_url,
    missing_programs,
    prefix_length,
)
from testbed.plan.plan import Tunnel, VpnServer

OPTIONS = {"keepalive_s": r"[1-9]\d*"}

_UAPI = Path("/run/wireguard")


def missing() -> str | None:
    """Why WireGuard cannot run here, or None."""
    return missing_programs({"wireguard-go": "wireguard-go"})


class WireGuardServer:
    def __init__(
        self, site: Site, server: VpnServer, key: WireGuardKey, peers: list[tuple[WireGuardKey, Tunnel]]
    ) -> None:
        self.site, self.server = site, server
        self.process: subprocess.Popen | None = None
        self._key = key
        self._peers = peers

    def start(self) -> None:
        """Returns when the device listens. Raises VpnFailed."""
        device = _Device(self.site)
        self.process = device.up()
        device.set(
            self._key,
            self.server.port,
            [(key, f"{_bare(t.inner4)}/32", None, None) for key, t in self._peers],
        )
        address = f"{self.server.inner_server4}/{prefix_length(self.server.inner4)}"
        self.site.ip(f"address add {address} dev {self.site.interface}", f"link set {self.site.interface} up")

    def stop(self) -> None:
        _Device(self.site).down(self.process)


class WireGuardClient:
    """WireGuard has no connecting state: the first inner packet makes the handshake, and it is retried every 5 s."""

    exits_on_failure = False

    def __init__(
        self, site: Site, tunnel: Tunnel, server: VpnServer, key: WireGuardKey, peer: WireGuardKey, port: int
    ) -> None:
        self.site, self.tunnel, self.server = site, tunnel, server
        self.inner_interface = site.interface
        self.process: subprocess.Popen | None = None
        self._key, self._peer, self._port = key, peer, port

    def start(self) -> None:
        device = _Device(self.site)
        self.process = device.up()
        outer = self.server.address4 if self.tunnel.family == 4 else self.server.address6
        assert outer is not None
        endpoint = in_url(outer, self.server.port)
        keepalive = self.server.options.get("keepalive_s")
        device.set(self._key, self._port, [(self._peer, self.server.inner4, endpoint, keepalive)])
        address = f"{_bare(self.tunnel.inner4)}/{prefix_length(self.server.inner4)}"
        self.site.ip(f"address add {address} dev {self.site.interface}", f"link set {self.site.interface} up")

    def stop(self) -> None:
        _Device(self.site).down(self.process)

    def outer(self) -> tuple[str, int, int]:
        """Transport, local port, remote port."""
        return "udp", self._port, self.server.port


# A peer of a device: its key, the inner addresses it may use, its endpoint, its keepalive in seconds.
_Peer = tuple[WireGuardKey, str, str | None, str | None]


class _Device:
    def __init__(self, site: Site) -> None:
        self._site = site

    def up(self) -> subprocess.Popen | None:
        """Make the interface: in the kernel (returns None), or by a wireguard-go process."""
        name = self._site.interface
        if (
            self._site.lab.cmd(self._site.node, ["ip", "link", "add", name, "type", "wireguard"]).returncode
            == 0
        ):
            return None
        (_UAPI / f"{name}.sock").unlink(missing_ok=True)
        process = self._site.spawn(["wireguard-go", "-f", name], env={"LOG_LEVEL": "verbose"})
        self._site.await_state(self._answers, "opened its control socket", process, START_DEADLINE_S)
        return process

    def set(self, key: WireGuardKey, port: int, peers: list[_Peer]) -> None:
        if self._answers():
            self._set_over_uapi(key, port, peers)
        else:
            self._set_in_kernel(key, port, peers)

    def down(self, process: subprocess.Popen | None) -> None:
        if process is None:
            self._site.lab.cmd(self._site.node, ["ip", "link", "delete", self._site.interface])
        end_process(process)

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except OSError:
            return False
        return True

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(START_DEADLINE_S)
        try:
            connection.connect(str(_UAPI / f"{self._site.interface}.sock"))
        except OSError:
            connection.close()
            raise
        return connection

    def _set_over_uapi(self, key: WireGuardKey, port: int, peers: list[_Peer]) -> None:
        lines = ["set=1", f"private_key={key.private.hex()}", f"listen_port={port}", "replace_peers=true"]
        for peer, allowed, endpoint, keepalive in peers:
            lines += [f"public_key={peer.public.hex()}", "replace_allowed_ips=true", f"allowed_ip={allowed}"]
            lines += [f"endpoint={endpoint}"] if endpoint else []
            lines += [f"persistent_keepalive_interval={keepalive}"] if keepalive else []
        with self._connect() as connection:
            connection.sendall(("\n".join(lines) + "\n\n").encode())
            answer = b""
            while not answer.endswith(b"\n\n"):
                data = connection.recv(4096)
                if not data:
                    break
                answer += data
        if answer.strip() != b"errno=0":
            raise VpnFailed(
                f"{self._site.name} on {self._site.node}: wireguard-go refused its configuration "
                f"({answer.decode().strip() or 'no answer'}): {self._site.log_end()}"
            )

    def _set_in_kernel(self, key: WireGuardKey, port: int, peers: list[_Peer]) -> None:
        lines = ["[Interface]", f"PrivateKey = {key.private_base64}", f"ListenPort = {port}"]
        for peer, allowed, endpoint, keepalive in peers:
            lines += ["[Peer]", f"PublicKey = {peer.public_base64}", f"AllowedIPs = {allowed}"]
            lines += [f"Endpoint = {endpoint}"] if endpoint else []
            lines += [f"PersistentKeepalive = {keepalive}"] if keepalive else []
        path = self._site.write("wg.conf", "\n".join((*lines, "")))
        done = self._site.lab.cmd(self._site.node, ["wg", "setconf", self._site.interface, str(path)])
        if done.returncode:
            raise VpnFailed(f"{self._site.name} on {self._site.node}: wg setconf: {done.stderr!s}")


def _bare(address: str) -> str:
    return address.partition("/")[0]
