"""The portal's pages, a module for each kind of visitor."""

from __future__ import annotations

from starlette.routing import BaseRoute

from enforcer.registry.web.office import Office


def page_routes(office: Office) -> list[BaseRoute]:
    """All pages. Imported late: a registry that serves enforcers only starts without them."""
    from enforcer.registry.web.pages import (
        appeals,
        application,
        audit,
        bulk,
        entry,
        mine,
        officer,
        provider,
        public,
    )

    modules = (public, entry, mine, application, appeals, officer, provider, bulk, audit)
    return [route for module in modules for route in module.routes(office)]
