"""What a plan needs and the kernel it would be played in has not: asked before anything is built."""

from __future__ import annotations

from testbed.plan.plan import Plan
from testbed.world.capabilities import Capabilities
from testbed.world.doctor import findings
from testbed.world.programs import PROGRAMS, find

# What real tunnels of these protocols are made with (testbed/lab/vpn); the other protocols' programs every lab asks for.
_PROGRAMS = {
    "l2tp": ("xl2tpd", "pppd"),
    "pptp": ("pptpd", "pptp", "pppd"),
    "openconnect": ("ocserv", "openconnect"),
}
_OF_PPP = ("l2tp", "pptp")
_MOST_NAMES = 4


def missing(plan: Plan, capabilities: Capabilities) -> str:
    """In a sentence, with what to do; "" when all is there. Programs that every lab needs are looked for by what starts them."""
    programs = capabilities.programs.keys()
    needless = set() if plan.servers else {"tun"}
    found = [
        f"{finding.title}: {finding.text}"
        for finding in findings(capabilities)
        if finding.status == "missing" and finding.name not in programs and finding.name not in needless
    ]
    found += _of_tunnels(plan, capabilities)
    return "this kernel lacks what the lab needs: " + "\n  ".join(found) if found else ""


def _of_tunnels(plan: Plan, capabilities: Capabilities) -> list[str]:
    protocols = {server.name: server.protocol for server in plan.servers}
    tunnels: dict[str, list[str]] = {}
    for tunnel in plan.tunnels:
        tunnels.setdefault(protocols[tunnel.server], []).append(tunnel.name)
    found = []
    of_ppp = [name for protocol in _OF_PPP for name in tunnels.get(protocol, ())]
    if of_ppp and not capabilities.ppp:
        why = capabilities.reasons.get("ppp", "")
        found.append(
            f"PPP (/dev/ppp{': ' + why if why else ''}), which {_named(of_ppp)} need, as every L2TP and PPTP tunnel does: "
            "sudo modprobe ppp_generic, if this kernel has the module (CONFIG_PPP)"
        )
    # Looked for now: what a kernel of the lab's own was found to have may be older than what was installed since.
    packages = {program.name: program.package for program in PROGRAMS}
    for protocol, names in tunnels.items():
        absent = [each for each in _PROGRAMS.get(protocol, ()) if find(each) is None]
        if absent:
            install = " ".join(dict.fromkeys(packages.get(each) or each for each in absent))
            found.append(f"{', '.join(absent)}, which {_named(names)} need: sudo apt-get install {install}")
    return found


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
