"""nftables commands in one transaction: libnftables through ctypes with an open handle (0.1 ms), else the `nft` program (5 ms).

Only the library's public C interface is called (libnftables(3)).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import shutil
import subprocess
import threading

from enforcer.dataplanes import DataplaneError, TableFull


class Nft:
    """Runs nft scripts in the network namespace it is made in; each script is one transaction: all of it, or nothing.

    Raises DataplaneError when neither library nor program is there.
    """

    def __init__(self, library: bool = True) -> None:
        self._library = _load() if library else None
        self._context = None
        self._lock = (
            threading.Lock()
        )  # a list may be loading in one thread while another says that the agent lives
        if self._library is not None:
            self._context = self._library.nft_ctx_new(0)
            self._library.nft_ctx_buffer_output(self._context)
            self._library.nft_ctx_buffer_error(self._context)
        elif shutil.which("nft") is None:
            raise DataplaneError(
                "neither libnftables nor the nft program is here; install nftables and libnftables1"
            )

    @property
    def way(self) -> str:
        return "libnftables" if self._library is not None else "nft program"

    def run(self, script: str) -> str:
        """The output. Raises TableFull when a set cannot take an element more, DataplaneError on any other refusal."""
        with self._lock:
            code, output, error = self._run(script)
        if code == 0:
            return output
        text = error.strip()[:2000]
        if "Too many open files in system" in text or "No space left" in text or "Cannot allocate" in text:
            raise TableFull(text)  # ENFILE: the set's size is reached
        raise DataplaneError(f"nft refused a change: {text}")

    def close(self) -> None:
        if self._library is not None and self._context is not None:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def _run(self, script: str) -> tuple[int, str, str]:
        if self._library is None:
            done = subprocess.run(["nft", "-f", "-"], input=script, capture_output=True, text=True)
            return done.returncode, done.stdout, done.stderr
        code = self._library.nft_run_cmd_from_buffer(self._context, script.encode())
        output = self._library.nft_ctx_get_output_buffer(self._context) or b""
        error = self._library.nft_ctx_get_error_buffer(self._context) or b""
        return code, output.decode(), error.decode()


def _load() -> ctypes.CDLL | None:
    for name in ("libnftables.so.1", ctypes.util.find_library("nftables")):
        if not name:
            continue
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        for function, result in (
            ("nft_ctx_free", None),
            ("nft_ctx_buffer_output", ctypes.c_int),
            ("nft_ctx_buffer_error", ctypes.c_int),
            ("nft_ctx_get_output_buffer", ctypes.c_char_p),
            ("nft_ctx_get_error_buffer", ctypes.c_char_p),
        ):
            getattr(library, function).restype = result
            getattr(library, function).argtypes = [ctypes.c_void_p]
        library.nft_run_cmd_from_buffer.restype = ctypes.c_int
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        return library
    return None
