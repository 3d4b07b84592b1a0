"""Memory that is given back by one batch is kept for the next."""

from __future__ import annotations

import ctypes

# mallopt(3). The C library gives what is freed back to the kernel beyond these; each page of it that is taken again costs 0.3 µs,
# and that was half of the time of parsing addresses.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES, _LARGEST_BYTES = 128 << 20, 32 << 20


def keep_freed() -> None:
    """Let the C library keep up to 128 MB of freed memory. Nothing happens where it cannot be told so."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_BYTES)
