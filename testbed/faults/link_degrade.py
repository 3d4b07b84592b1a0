"""A link that becomes worse: rate, delay, jitter or loss as given, in place; what it was before again afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from testbed.faults.site import Site, link_named

_DIRECTIONS = ("ab", "ba")


@contextmanager
def link_degrade(site: Site, link: str, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Raises ValueError when nothing is to change, or a figure is out of range. Healed: as it was before the fault."""
    link_named(site, link)
    if not arguments:
        raise ValueError(f"link-degrade of {link} changes nothing; give rate, delay, jitter or loss")
    before = {direction: site.links.shape(link, direction) for direction in _DIRECTIONS}
    try:
        site.links.change(link, **arguments)
        yield
    finally:
        for direction, shape in before.items():
            # A rate of 0 lifts the limit.
            was = {name: getattr(shape, name) or 0 for name in arguments}
            site.links.change(link, direction=direction, **was)
