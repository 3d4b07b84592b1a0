"""A link that becomes worse: rate, delay, jitter or loss as given, in place; the plan's values again afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from testbed.faults.site import Site, link_named


@contextmanager
def link_degrade(site: Site, link: str, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Raises ValueError when nothing is to change. A set-link during the fault is undone by its end."""
    link_named(site, link)
    if not arguments:
        raise ValueError(f"link-degrade of {link} changes nothing; give rate, delay, jitter or loss")
    planned = next(each for each in site.lab.plan.links if each.name == link)
    before = {name: getattr(planned, name) for name in arguments}
    try:
        site.links.change(link, **arguments)
        yield
    finally:
        site.links.change(link, **before)
