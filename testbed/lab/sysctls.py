"""Kernel settings of a node: which a lab sets, and writing them so that a setting that did not take is an error.

Per-namespace keys are under /proc/sys/net of the thread inside the namespace (ip-sysctl.rst of the kernel says what
each means). Some keys are read-only in a namespace, and the write alone does not always tell: each is read back.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from testbed.plan.plan import Node, Subscriber

_ROOT = Path("/proc/sys/net")

# Only where the namespace is the first one of its kernel (User-Mode Linux) are these keys there and writable.
_WHERE_PRESENT = {"core/fb_tunnels_only_for_init_net": "1"}


def node_settings(node: Node, subscriber: Subscriber | None) -> dict[str, str]:
    """The settings of one node by key below /proc/sys/net; made before its interfaces, which copy `default`."""
    forwards = "1" if node.forwards else "0"
    settings = {
        # Routing here is asymmetric on purpose (two gateways, several cables).
        "ipv4/conf/all/rp_filter": "0",
        "ipv4/conf/default/rp_filter": "0",
        # A changed address must not take the line's other addresses with it.
        "ipv4/conf/all/promote_secondaries": "1",
        "ipv4/conf/default/promote_secondaries": "1",
        # Addresses work at once, come only from the plan, and outlive a cut of the link.
        "ipv6/conf/all/accept_dad": "0",
        "ipv6/conf/default/accept_dad": "0",
        "ipv6/conf/all/accept_ra": "0",
        "ipv6/conf/default/accept_ra": "0",
        "ipv6/conf/all/keep_addr_on_down": "1",
        "ipv6/conf/default/keep_addr_on_down": "1",
        # Unprivileged ICMP sockets for group 0, the only group a user namespace always maps.
        "ipv4/ping_group_range": "0 0",
        "ipv4/ip_forward": forwards,
        "ipv6/conf/all/forwarding": forwards,
    }
    if subscriber is not None and subscriber.port_first is not None and subscriber.port_last is not None:
        settings["ipv4/ip_local_port_range"] = f"{subscriber.port_first} {subscriber.port_last}"
    return settings


def write(settings: Mapping[str, str], who: str) -> None:
    """Write the settings in the namespace this thread is in, and read each back. Raises OSError naming who and the key."""
    for key, wanted in settings.items():
        try:
            found = _write_and_read(f"{_ROOT}/{key}", wanted)
        except OSError as error:
            raise OSError(
                error.errno, f"node {who}: cannot set sysctl net/{key} to '{wanted}': {error.strerror}"
            ) from None
        if found != wanted:
            raise OSError(
                0, f"node {who}: sysctl net/{key} is '{found}' after writing '{wanted}'; it is read-only here"
            )


def write_where_present() -> None:
    """Settings of the whole kernel that only its first namespace has; nothing elsewhere."""
    for key, wanted in _WHERE_PRESENT.items():
        path = _ROOT / key
        if path.exists():
            path.write_text(wanted)


def _write_and_read(path: str, wanted: str) -> str:
    # One open for both: a large lab does this ten thousand times.
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.write(fd, wanted.encode())
        return " ".join(os.pread(fd, 256, 0).decode().split())
    finally:
        os.close(fd)
