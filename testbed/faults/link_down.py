"""A cut cable: both ends lose carrier at once; BGP goes round it where there is another way, and comes back after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from testbed.faults.site import Site, link_named


@contextmanager
def link_down(site: Site, link: str, _arguments: Mapping[str, Any]) -> Iterator[None]:
    """Healed means that the link carries again; routing needs its second or two after that."""
    link_named(site, link)
    try:
        site.lab.link_down(link)
        yield
    finally:
        site.lab.link_up(link)
