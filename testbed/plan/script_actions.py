"""What a timeline's event can be."""

from __future__ import annotations

PORTAL = (
    "apply",
    "verify",
    "refuse-verify",
    "approve",
    "reject",
    "revoke",
    "suspend",
    "renew",
    "change-address-form",
    "complain",
    "grant-appeal",
    "deny-appeal",
    "ask-renewal",
)
ACTIONS = (*PORTAL, "change-address", "connect", "disconnect", "fault", "set-link")
