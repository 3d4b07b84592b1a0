"""UDP echo inside the tunnels, in a thread of this process: what a session is proved by."""

from __future__ import annotations

import selectors
import socket
import threading

from testbed.lab.build import Lab

ECHO_PORT = 7  # RFC 862


class InnerEcho:
    """Answers on each (node, address) at port 7. The addresses must be there: start the servers first. Raises OSError."""

    def __init__(self, lab: Lab, endpoints: list[tuple[str, str]]) -> None:
        self._selector = selectors.DefaultSelector()
        self._stopped, self._wake = socket.socketpair()
        self._selector.register(self._stopped, selectors.EVENT_READ)
        for node, address in endpoints:
            with lab.inside(node):
                echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._selector.register(echo, selectors.EVENT_READ)
            echo.bind((address, ECHO_PORT))
        self._thread = threading.Thread(target=self._serve, name="inner-echo", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._wake.close()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._stopped:
                    return
                try:
                    data, source = key.fileobj.recvfrom(65535)  # type: ignore[union-attr]
                    key.fileobj.sendto(data, source)  # type: ignore[union-attr]
                except OSError:
                    continue  # an ICMP error of an earlier answer, or a client that is gone
