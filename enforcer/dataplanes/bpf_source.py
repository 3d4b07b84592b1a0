"""What of the classifier's C source follows from a policy: policy.h, generated from the table of protocol facts; and compiling it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.resources import files
from ipaddress import ip_network
from pathlib import Path

from enforcer.cells import KINDS, PORTLESS
from enforcer.dataplanes import DataplaneError
from enforcer.dataplanes.bpf_maps import MOST_SHAPES, MOST_SWEPT
from enforcer.policy import Exemption, Policy
from enforcer.protocols import (
    FIRST_MESSAGES,
    GRE_PPTP_TYPE,
    GRE_PPTP_VERSION,
    IP_PROTOCOLS,
    SERVICE_PORTS,
    SERVICE_PORTS_OF_VPN,
    TCP_PORTS,
    UDP_PORTS,
    VPN_PROTOCOLS,
    Field,
    FirstMessage,
)

PASS_REASONS = ("not-vpn", "not-yet", "fragment", "registered", "finishing", "exempt", "fail-open")
STOP_REASONS = ("unregistered", "revoked", "fail-closed")
COUNTERS = (
    *PASS_REASONS,
    *(f"{reason}.{protocol}" for reason in STOP_REASONS for protocol in (*VPN_PROTOCOLS, "unseen")),
)
MOST_REPORTS = 1000  # a second, reason, protocol and CPU: a flood shall not drown the rest

_FLAGS = ("-target", "bpf", "-O2", "-g", "-Wall", "-Werror", "-Wno-unused-function", "-Wno-unused-value")
_FALLBACKS = {"keep": "KEEP", "allow": "ALLOW", "block": "BLOCK"}


def compiled(policy: Policy, cache: Path | None = None) -> Path:
    """The object file for this policy: from the cache, or compiled now. Raises DataplaneError when clang is not there or fails.

    cache: a folder (default allowlist-bpf in $CACHE_DIRECTORY (systemd), $XDG_CACHE_HOME or ~/.cache). The file's name is the
    hash of all that goes into it.
    """
    texts = {
        part.name: part.read_text("utf-8")
        for part in (files("enforcer.dataplanes") / "bpf").iterdir()
        if part.name.endswith((".c", ".h"))
    }
    texts |= {"constants.h": constants_header(policy), "policy.h": policy_header(policy)}
    named = [part for name in sorted(texts) for part in (name, texts[name])]
    digest = hashlib.sha256("\0".join((*named, *_FLAGS)).encode()).hexdigest()[:32]
    folder = cache or _cache_folder()
    target = folder / f"{digest}.o"
    if target.is_file():
        return target
    clang = shutil.which("clang")
    if clang is None:
        raise DataplaneError(
            "the bpf dataplane is compiled on first use and clang is not here; install clang (apt-get install clang), or use dataplane: nft"
        )
    work = folder / f"{digest}.{os.getpid()}"
    try:
        work.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise DataplaneError(
            f"the compiled classifier cannot be kept in {folder}: {error.strerror}; make the folder writable"
        ) from error
    try:
        for name, text in texts.items():
            (work / name).write_text(text, "utf-8")
        include = f"/usr/include/{os.uname().machine}-linux-gnu"  # Debian's asm/types.h; elsewhere it is in /usr/include
        argv = [clang, *_FLAGS, f"-I{include}", "-c", "allowlist.bpf.c", "-o", "allowlist.o"]
        done = subprocess.run(argv, cwd=work, capture_output=True, text=True)
        if done.returncode != 0:
            raise DataplaneError(
                f"clang cannot compile the classifier; install linux-libc-dev if headers are missing:\n{done.stderr.strip()}"
            )
        (work / "allowlist.o").replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def constants_header(policy: Policy) -> str:
    """constants.h."""
    is_observing = policy.mode == "observe" or policy.action == "observe"
    agent_dead = _FALLBACKS[policy.on_failure.agent_dead]
    lines = [
        f"#define KINDS {len(KINDS)}",
        f"#define PROTOCOLS {len(VPN_PROTOCOLS)}",
        f"#define COUNTERS {len(COUNTERS)}",
        f"#define MOST_REPORTS {MOST_REPORTS}",
        f"#define MOST_SHAPES {MOST_SHAPES}",
        f"#define MOST_SWEPT {MOST_SWEPT}",
        f"#define IS_OBSERVING {int(is_observing)}",
        f"#define AGENT_DEAD {agent_dead}",
    ]
    return "\n".join(lines) + "\n"


def policy_header(policy: Policy) -> str:
    """policy.h: protocol_of(), recognise(), is_exempt(). Mirrors decide's functions of these names."""
    lines = [
        "INLINE u32 protocol_of(int kind)\n{\n\tswitch (kind) {",
        *(
            f"\tcase {number}: return {VPN_PROTOCOLS.index(_protocol(kind))};"
            for number, kind in enumerate(KINDS)
        ),
        "\t}\n\treturn PROTOCOLS;\n}",
        "INLINE int is_service(u16 port)\n{",
        f"\treturn port < {SERVICE_PORTS.stop} && {' && '.join(f'port != {port}' for port in SERVICE_PORTS_OF_VPN)};",
        "}",
        "INLINE int recognise(const struct packet *p)\n{",
        *_recognise(policy),
        "\treturn -1;\n}",
        "INLINE int is_exempt(const struct packet *p, int kind)\n{",
        *(line for exemption in policy.exempt for line in _exempt(exemption)),
        "\treturn 0;\n}",
    ]
    return "\n".join(lines) + "\n"


def _cache_folder() -> Path:
    for name in ("CACHE_DIRECTORY", "XDG_CACHE_HOME"):
        if os.environ.get(name):
            return Path(os.environ[name]) / "allowlist-bpf"
    return Path.home() / ".cache" / "allowlist-bpf"


def _protocol(kind: str) -> str:
    return {"gre": "pptp", "l2tp-ip": "l2tp"}.get(kind, kind)


def _recognise(policy: Policy) -> Iterator[str]:
    for number, protocol in IP_PROTOCOLS.items():
        if protocol in policy.governs:
            kind = "l2tp-ip" if protocol == "l2tp" else protocol
            yield _if(f"p->protocol == {number}", kind)
    if "pptp" in policy.governs:
        yield _if(
            f"p->protocol == GRE && HAS(p, 0, 4) && (BYTE(p, 1) & 7) == {GRE_PPTP_VERSION} && TWO(p, 2) == {GRE_PPTP_TYPE:#x}",
            "gre",
        )
    yield "\tif (p->protocol != TCP && p->protocol != UDP) return -1;"
    for named in policy.named_endpoints:
        if named.protocol in policy.governs:
            for end, port in (("dst", "dst_port"), ("src", "src_port")):
                wanted = [_within(end, named.prefixes), _ports(port, named.ports)]
                yield _if(" && ".join(part for part in wanted if part), named.protocol)
    for transport, ports in (("tcp", TCP_PORTS), ("udp", UDP_PORTS)):
        yield f"\tif (p->protocol == {transport.upper()}) {{"
        if "ports" in policy.recognise_by:
            for port, protocol in ports.items():
                if protocol in policy.governs:
                    yield _if(f"p->dst_port == {port} && !is_service(p->src_port)", protocol)
            for port, protocol in ports.items():
                if protocol in policy.governs:
                    shown = [_message(each) for each in _messages(transport) if each.protocol == protocol]
                    if transport == "tcp":
                        shown.insert(0, "(p->tcp_flags & (SYN | ACK)) == (SYN | ACK)")
                    headers = " ||\n\t\t".join(f"({each})" for each in shown)
                    yield _if(
                        f"p->src_port == {port} && !is_service(p->dst_port) && (\n\t\t{headers})", protocol
                    )
        if "first-packets" in policy.recognise_by:
            for message in _messages(transport):
                if not message.from_server and message.protocol in policy.governs:
                    yield _if(_message(message), message.protocol)
        yield "\t}"


def _messages(transport: str) -> list[FirstMessage]:
    return [message for message in FIRST_MESSAGES if message.transport == transport]


def _if(condition: str, kind: str) -> str:
    return f"\tif ({condition}) return {KINDS.index(kind)}; /* {kind} */"


def _message(message: FirstMessage) -> str:
    parts = []
    if message.lengths:
        low, high = message.lengths
        parts.append(
            f"p->udp_length == {low}" if low == high else f"p->udp_length >= {low} && p->udp_length <= {high}"
        )
    parts += [_field(field) for field in message.fields]
    return " && ".join(parts)


def _field(field: Field) -> str:
    read = {1: "BYTE", 2: "TWO", 4: "FOUR"}[field.size]
    value = f"{read}(p, {field.offset})"
    if field.is_absent:
        tests = " && ".join(f"{value} != {each:#x}u" for each in field.values)
    else:
        tests = " || ".join(f"{value} == {each:#x}u" for each in field.values)
    return f"HAS(p, {field.offset}, {field.size}) && ({tests})"


def _exempt(exemption: Exemption) -> Iterator[str]:
    for subscriber, endpoint, port in (("src", "dst", "dst_port"), ("dst", "src", "src_port")):
        parts = []
        if exemption.protocols:
            kinds = [number for number, kind in enumerate(KINDS) if _protocol(kind) in exemption.protocols]
            parts.append("(" + " || ".join(f"kind == {number}" for number in kinds) + ")")
        if exemption.endpoint_prefixes:
            parts.append(_within(endpoint, exemption.endpoint_prefixes))
        if exemption.subscriber_prefixes:
            parts.append(_within(subscriber, exemption.subscriber_prefixes))
        if exemption.endpoint_ports:
            portless = " || ".join(f"kind == {KINDS.index(kind)}" for kind in PORTLESS)
            parts.append(f"({portless} || {_ports(port, exemption.endpoint_ports)})")
        yield f"\tif ({' && '.join(parts) or '1'}) return 1;"


def _ports(name: str, ports: Iterable[int]) -> str:
    tests = " || ".join(f"p->{name} == {port}" for port in ports)
    return f"({tests})" if tests else ""


def _within(end: str, prefixes: Iterable[str]) -> str:
    """Addresses are compared as they are in memory: network order."""
    tests = []
    for prefix in prefixes:
        network = ip_network(prefix)
        parts = [f"p->version == {network.version}"]
        for start in range(0, network.max_prefixlen // 8, 4):
            mask = int.from_bytes(network.netmask.packed[start : start + 4], sys.byteorder)
            if mask:
                word = int.from_bytes(network.network_address.packed[start : start + 4], sys.byteorder)
                parts.append(f"(p->{end}[{start // 4}] & {mask:#x}u) == {word:#x}u")
        tests.append("(" + " && ".join(parts) + ")")
    return "(" + " || ".join(tests) + ")"
