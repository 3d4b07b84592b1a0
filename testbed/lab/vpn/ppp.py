"""What L2TP and PPTP share: the kernel's PPP, pppd's options, and a private /etc/ppp for each end.

Every session is a pppd of its own, which xl2tpd, pptpd or this module starts. Where pppd looks for passwords and hooks is
compiled in (/etc/ppp), so each end sees a folder of its own there, with its passwords and without the host's hooks.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
from dataclasses import dataclass
from typing import Any

from testbed.lab.vpn.site import Site, end_process, missing_programs
from testbed.plan.plan import Tunnel, VpnServer

TIMERS = {"timers": "default|bounded"}
# What each header leaves of 1500 bytes is 1,456 at least (RFC 2661 §3.1, RFC 2637 §4.1); people's clients use 1400.
MTU = 1400
# LCP echo requests: one after each number of seconds, and how many unanswered ones end the session. "default" is Debian's
# /etc/ppp/options.
_ECHO = {"default": (30, 4), "bounded": (2, 2)}
DEVICE = "/dev/ppp"
_PPPD = "/usr/sbin/pppd"
# pppd's magic numbers follow from host name, time and process id (magic.c, sys-linux.c): two that start at once on hosts of
# one name may take each other for a looped-back line.
_OWN = 'hostname "$1" && shift && mount -t tmpfs tmpfs /run && mkdir /run/pptp && mount --bind "$0" /etc/ppp && exec "$@"'


@dataclass(frozen=True, slots=True)
class Login:
    """Who may dial in: a name, a password, and the tunnel whose inner address the name gets."""

    name: str
    password: str
    tunnel: Tunnel


def password() -> str:
    """128 random bits, as pppd's secrets file takes them."""
    return secrets.token_hex(16)


def missing(programs: dict[str, str]) -> str | None:
    """Why PPP cannot run here, or None. programs: name or path -> Debian package, besides pppd's."""
    try:
        os.close(os.open(DEVICE, os.O_RDWR))
    except OSError as error:
        return (
            f"no PPP in this kernel (/dev/ppp: {error.strerror}); the lab's own kernel has it:"
            " run with --clock virtual, or with --world uml"
        )
    return missing_programs({_PPPD: "ppp", **programs})


def spawn(site: Site, argv: list[str], secrets_lines: list[str], ip_down: str = "") -> subprocess.Popen[Any]:
    """Start a program that has an empty /run, a host name and an /etc/ppp of its own.

    secrets_lines: of /etc/ppp/chap-secrets. ip_down: a script for pppd to run when a session ends.
    """
    folder = site.dir / "etc"
    folder.mkdir(mode=0o700, exist_ok=True)
    site.write("etc/options", "")
    site.write("etc/chap-secrets", "".join(line + "\n" for line in secrets_lines))
    if ip_down:
        site.write("etc/ip-down", ip_down, 0o700)
    own = ["unshare", "--mount", "--propagation", "private", "--uts", "sh", "-c", _OWN, str(folder)]
    return site.spawn([*own, site.node[:63], *argv])


def server_secrets(server: VpnServer, logins: list[Login]) -> list[str]:
    """Lines of the server's chap-secrets: a name has one address, so the server gives it that one (pppd(8))."""
    return [
        f"{each.name} {server.name} {each.password} {each.tunnel.inner4.partition('/')[0]}" for each in logins
    ]


def client_secrets(login: Login, server: VpnServer) -> list[str]:
    return [f"{login.name} {server.name} {login.password} *"]


def server_options(server: VpnServer) -> str:
    """pppd's options of a session's far end: it wants MS-CHAPv2, and compresses nothing."""
    return _both(server) + f"auth\nrequire-mschap-v2\nname {server.name}\n"


def client_options(site: Site, server: VpnServer, login: Login) -> str:
    own = f"ifname {site.interface}\nnoauth\nname {login.name}\nremotename {server.name}\n"
    own += "noipdefault\nipcp-accept-local\nipcp-accept-remote\nrefuse-pap\nrefuse-eap\nrefuse-chap\nrefuse-mschap\n"
    return _both(server) + own


def end_session(process: subprocess.Popen[Any] | None, patience_s: float = 1.0) -> None:
    """SIGTERM; then, whatever it left of its process group (a pppd, pptp's call manager) is killed."""
    end_process(process, patience_s)
    if process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _both(server: VpnServer) -> str:
    interval, failures = _ECHO[server.options.get("timers", "default")]
    text = f"nodetach\nlogfd 2\nmtu {MTU}\nmru {MTU}\nnodefaultroute\nnoproxyarp\n"
    text += "novj\nnovjccomp\nnobsdcomp\nnodeflate\nnopcomp\nnoaccomp\nnoipv6\n"
    return text + f"lcp-echo-interval {interval}\nlcp-echo-failure {failures}\n"
