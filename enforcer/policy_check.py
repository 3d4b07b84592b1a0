"""What the parts of a policy file must not say together."""

from __future__ import annotations

from enforcer.policy_file import PolicyFile
from enforcer.yamlfile import Document, Problem


def cross_check(document: Document, model: PolicyFile) -> None:
    """Notes every problem in the document."""
    # A required key may be None here: its absence is noted already.
    if model.unregistered and model.unregistered.action == "police" and model.unregistered.rate is None:
        document.add(("unregistered",), "action police has no rate", "add 'rate: 64kbit'")
    if model.unregistered and model.unregistered.action != "police" and model.unregistered.rate is not None:
        document.add(
            ("unregistered", "rate"),
            "only action police has a rate",
            "remove it, or write 'action: police'",
            True,
        )
    if model.revocation and model.revocation.live_flows == "let-finish" and model.revocation.within is None:
        document.add(("revocation",), "let-finish has no bound", "add 'within: 30s'")
    if model.revocation and model.revocation.live_flows == "cut" and model.revocation.within is not None:
        document.add(
            ("revocation", "within"), "cut is at once", "remove it, or write 'live-flows: let-finish'", True
        )
    named = {endpoint.protocol for endpoint in model.named_endpoints}
    for index, protocol in enumerate(model.governs or []):
        if protocol in model.governs[:index]:
            document.add(("governs", index), f"{protocol!r} is there twice", "keep one of them")
        if protocol == "openconnect" and protocol not in named:
            document.add(
                ("governs", index),
                "'openconnect' cannot be told from HTTPS by its headers (not classifiable on the wire)",
                "leave it out, or name its servers under named-endpoints",
            )
    for index, endpoint in enumerate(model.named_endpoints):
        if model.governs and endpoint.protocol not in model.governs:
            document.add(
                ("named-endpoints", index, "protocol"),
                f"{endpoint.protocol!r} is not governed",
                "add it to governs",
            )
    _check_audit(document, model)
    if model.registrations is not None:
        # As written: what was wrong has been left out of the model, and would shift the places.
        categories = document.data["registrations"]["categories"]
        for index, category in enumerate(categories):
            if category in categories[:index]:
                where = ("registrations", "categories", index)
                document.add(where, f"{category!r} is there twice", "keep one of them")
    names = [exemption.name for exemption in model.exempt]
    for index, exemption in enumerate(model.exempt):
        if exemption.name in names[:index]:
            document.add(
                ("exempt", index, "name"),
                f"{exemption.name!r} is there twice",
                "give each exemption its own name",
            )
        if exemption.is_whole and not (
            exemption.protocols or exemption.endpoints or exemption.ports or exemption.subscribers
        ):
            document.add(
                ("exempt", index),
                "it exempts everything",
                "say which protocols, endpoints, ports or subscribers",
            )


def _check_audit(document: Document, model: PolicyFile) -> None:
    for key in ("ipv4-prefix", "ipv6-prefix"):
        if model.audit.addresses != "prefix" and ("audit", key) in document.keys:
            document.add(
                ("audit", key),
                "only addresses: prefix has a prefix length",
                "remove it, or write 'addresses: prefix'",
                True,
            )


def doubts(document: Document, model: PolicyFile, today: str) -> list[Problem]:
    """What is allowed and is probably not meant. today: ISO 8601."""
    found = Document(document.file, keys=document.keys, values=document.values)
    for index, exemption in enumerate(model.exempt):
        where = ("exempt", index)
        if exemption.review is not None and exemption.review < today:
            what = f"the review of {exemption.name!r} was due on {exemption.review}"
            found.add(
                (*where, "review"), what, f"ask {exemption.owner}: write a later day, or remove the exemption"
            )
        for at, protocol in enumerate(exemption.protocols):
            if protocol not in model.governs:
                found.add(
                    (*where, "protocols", at),
                    f"{protocol!r} is not governed, so nothing of it needs an exemption",
                    "remove it here, or add it to governs",
                )
    _doubt_categories(found, model)
    for key in ("registry-unreachable", "feed-stale"):
        behaviour = getattr(model.on_failure, key.replace("-", "_"))
        if model.mode == "enforce" and behaviour.do == "block":
            found.add(
                ("on-failure", key, "do"),
                "whoever is registered is cut off too while the registry is away, and nobody can help it from here",
                "write 'keep': the last good allowlist stays in force",
            )
    return found.problems


def _doubt_categories(found: Document, model: PolicyFile) -> None:
    if model.registrations is None or set(model.registrations.categories) != {"provider"}:
        return
    if model.match != "endpoint":
        found.add(
            ("match",),
            "only providers' registrations count, and those hold a provider's own line: their customers never match",
            "write 'match: endpoint', or count more categories",
        )
