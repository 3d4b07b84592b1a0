"""What the service manager is told (sd_notify(3)): that the list is in force, that the agent lives, that it ends."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Nothing happens where no service manager listens, or when it does not take the message."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
        try:
            sending.setblocking(False)
            sending.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError:
            return
