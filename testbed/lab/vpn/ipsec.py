"""IKEv2/IPsec by strongSwan's charon, set up over its vici socket; ESP in the kernel, or in charon where the kernel has none.

charon's own ESP (kernel-libipsec) always goes in UDP 4500: protocol 50 is then never on the wire. Each instance has a
private /run, for charon's pid file's path is compiled in. Option `timers`: "default" (charon's: a first packet again
after 4, 7.2, 13, 23, 42 s; no dead-peer detection) or "bounded" (1 s × 1.4, four tries, detection every 2 s: back within
about 4 s). `dpd_s` turns detection on alone, which with default retransmission makes recovery slower (measured).
"""

from __future__ import annotations

import re
import subprocess

from testbed.lab.build import Lab
from testbed.lab.vpn.keys import Certificate
from testbed.lab.vpn.site import (
    START_DEADLINE_S,
    Site,
    VpnFailed,
    end_process,
    missing_programs,
)
from testbed.lab.vpn.sockets import is_bound
from testbed.lab.vpn.vici import Vici, ViciError
from testbed.plan.plan import Tunnel, VpnServer

OPTIONS = {"timers": "default|bounded", "dpd_s": r"[1-9]\d*"}
CHARON = "/usr/lib/ipsec/charon"

_PROPOSAL = "aes128gcm16-prfsha256-ecp256"
_PLUGINS = (
    "random nonce aes sha1 sha2 hmac kdf gcm curve25519 openssl pem pkcs1 pkcs8 x509 pubkey constraints"
    " kernel-netlink socket-default vici"
)
_BOUNDED = (
    "retransmit_timeout = 1.0\n  retransmit_base = 1.4\n  retransmit_tries = 4\n  retry_initiate_interval = 2"
)
_CONFIG = """\
charon {{
  load = {plugins}
  port = {port}
  port_nat_t = {port_nat_t}
  start-scripts {{
  }}
  {timers}
  filelog {{
    stderr {{
      default = 1
      flush_line = yes
    }}
  }}
  plugins {{
    vici {{
      socket = unix://{vici}
    }}
  }}
}}
"""


def missing() -> str | None:
    """Why strongSwan cannot run here, or None."""
    return missing_programs({CHARON: "strongswan-charon strongswan-swanctl libcharon-extra-plugins"})


def kernel_has_esp(lab: Lab, node: str) -> bool:
    """Whether the kernel takes an ESP security association in the node (CONFIG_INET_ESP, loaded if it is a module)."""
    key = "0x" + "00" * 20
    state = ["src", "192.0.2.1", "dst", "192.0.2.2", "proto", "esp", "spi", "0x100"]
    add = ["ip", "xfrm", "state", "add", *state, "mode", "tunnel", "aead", "rfc4106(gcm(aes))", key, "128"]
    if lab.cmd(node, add).returncode:
        return False
    lab.cmd(node, ["ip", "xfrm", "state", "delete", *state])
    return True


class IpsecServer:
    def __init__(
        self, site: Site, server: VpnServer, authority: str, own: Certificate, esp_in_kernel: bool
    ) -> None:
        self.site, self.server = site, server
        self.process: subprocess.Popen | None = None
        self._charon = _Charon(site, esp_in_kernel)
        self._authority, self._own = authority, own

    def start(self) -> None:
        """Returns when it answers on its ports and knows its clients. Raises VpnFailed."""
        # The port of NAT traversal is 4500 beside 500 (RFC 7296 §2.23); a server elsewhere gets its own distance.
        port_nat_t = self.server.port + 4000
        self.site.ip(f"address replace {self.server.inner_server4}/32 dev lo")
        self.process = self._charon.run(self.server.port, port_nat_t, self.server)
        connection = {
            **_connection(self._own, self._authority),
            "local_addrs": ["%any"],
            "remote_addrs": ["%any"],
            "unique": "replace",
            **_dead_peer_detection(self.server),
            "children": {
                "inner": {
                    "local_ts": [self.server.inner4],
                    "remote_ts": [self.server.inner4],
                    "esp_proposals": ["aes128gcm16"],
                    "dpd_action": "clear",
                }
            },
        }
        self._charon.load(self._own, self._authority, {self.server.name: connection})
        pid = self.process.pid
        self.site.await_state(
            lambda: is_bound(pid, "udp", self.server.port) and is_bound(pid, "udp", port_nat_t),
            "listened",
            self.process,
            START_DEADLINE_S,
        )

    def stop(self) -> None:
        end_process(self.process)


class IpsecClient:
    exits_on_failure = False

    def __init__(
        self,
        site: Site,
        tunnel: Tunnel,
        server: VpnServer,
        authority: str,
        own: Certificate,
        ports: tuple[int, int],
        esp_in_kernel: bool,
    ) -> None:
        """ports: the local IKE and NAT-traversal ports, 500 and 4500 or two of the subscriber's block."""
        self.site, self.tunnel, self.server = site, tunnel, server
        self.process: subprocess.Popen | None = None
        self._charon = _Charon(site, esp_in_kernel)
        self._authority, self._own, self._ports = authority, own, ports

    @property
    def inner_interface(self) -> str:
        """charon's own interface, whose number the kernel gives ("lo" where the kernel does ESP, which needs none)."""
        return self._charon.interface()

    def start(self) -> None:
        outer = self.server.address4 if self.tunnel.family == 4 else self.server.address6
        assert outer is not None
        inner = self.tunnel.inner4.partition("/")[0]
        self.site.ip(f"address replace {inner}/32 dev lo")
        self.process = self._charon.run(*self._ports, self.server)
        connection = {
            **_connection(self._own, self._authority),
            "remote_addrs": [outer],
            "remote_port": str(self.server.port),
            "keyingtries": "0",
            **_dead_peer_detection(self.server),
            "children": {
                "inner": {
                    "local_ts": [f"{inner}/32"],
                    "remote_ts": [self.server.inner4],
                    "esp_proposals": ["aes128gcm16"],
                    "start_action": "start",
                    "close_action": "start",
                    "dpd_action": "restart",
                }
            },
        }
        connection["remote"]["id"] = self.server.name
        self._charon.load(self._own, self._authority, {self.tunnel.name: connection})

    def stop(self) -> None:
        end_process(self.process)

    def outer(self) -> tuple[str, int, int]:
        """Transport, local port, remote port: of the ESP once there is an association, of IKE before."""
        for association in self._charon.associations():
            if association.get("state") != "ESTABLISHED":
                continue
            children = association.get("child-sas", {}).values()
            if any("encap" not in child for child in children):
                return "esp", 0, 0
            return "udp", int(association["local-port"]), int(association["remote-port"])
        return "udp", self._ports[0], self.server.port


class _Charon:
    def __init__(self, site: Site, esp_in_kernel: bool) -> None:
        self._site = site
        self._esp_in_kernel = esp_in_kernel
        self._path = str(site.dir / "vici")
        # The first that offers IPsec wins, so charon's own has to come before kernel-netlink.
        self._plugins = _PLUGINS if esp_in_kernel else f"kernel-libipsec {_PLUGINS}"

    def run(self, port: int, port_nat_t: int, server: VpnServer) -> subprocess.Popen:
        timers = _BOUNDED if server.options.get("timers") == "bounded" else ""
        config = _CONFIG.format(
            plugins=self._plugins, port=port, port_nat_t=port_nat_t, timers=timers, vici=self._path
        )
        env = {"STRONGSWAN_CONF": str(self._site.write("strongswan.conf", config))}
        process = self._site.spawn([CHARON], private_run=True, env=env)
        self._site.await_state(self._answers, "opened its control socket", process, START_DEADLINE_S)
        return process

    def load(self, own: Certificate, authority: str, connections: dict) -> None:
        try:
            with Vici(self._path) as vici:
                vici.request("load-key", {"type": "any", "data": own.key})
                vici.request("load-cert", {"type": "X509", "flag": "CA", "data": authority})
                vici.request("load-conn", connections)
        except (ViciError, OSError) as error:
            raise VpnFailed(
                f"{self._site.name} on {self._site.node}: charon refused its configuration ({error}): {self._site.log_end()}"
            ) from error

    def interface(self) -> str:
        if self._esp_in_kernel:
            return "lo"
        created = re.findall(r"created TUN device: (\S+)", self._site.log_text())
        return created[-1] if created else "ipsec0"

    def associations(self) -> list[dict]:
        """The IKE associations charon holds now; empty when it is gone."""
        try:
            with Vici(self._path, timeout_s=0.5) as vici:
                return [next(iter(event.values())) for event in vici.streamed("list-sas", "list-sa") if event]
        except (ViciError, OSError):
            return []

    def _answers(self) -> bool:
        try:
            with Vici(self._path) as vici:
                vici.request("version")
        except (OSError, ViciError):
            return False
        return True


def _connection(own: Certificate, authority: str) -> dict:
    return {
        "version": "2",
        "proposals": [_PROPOSAL],
        "local": {"auth": "pubkey", "certs": [own.certificate], "id": own.common_name},
        "remote": {"auth": "pubkey", "cacerts": [authority]},
    }


def _dead_peer_detection(server: VpnServer) -> dict[str, str]:
    delay = server.options.get("dpd_s") or ("2" if server.options.get("timers") == "bounded" else "")
    return {"dpd_delay": f"{delay}s"} if delay else {}
