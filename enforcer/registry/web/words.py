"""Times and things in words: what a template shows of a registration, in the visitor's language and the authority's time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any

from enforcer.registry.form import Document
from enforcer.registry.web.texts import Texts

if TYPE_CHECKING:
    from enforcer.registry.web.accounts import Account
    from enforcer.registry.web.view import View

_NAVIGATION: dict[str, tuple[tuple[str, str], ...]] = {
    "": (("/sign-in", "sign-in"), ("/sign-up", "sign-up"), ("/help", "help")),
    "registrant": (("/my", "my"), ("/my/apply", "apply"), ("/bulk", "bulk"), ("/account", "account"), ("/help", "help")),
    "officer": (("/officer", "officer"), ("/officer/appeals", "appeals"), ("/bulk", "bulk"), ("/audit", "audit"), ("/account", "account"), ("/help", "help")),
    "provider": (("/provider", "provider"), ("/account", "account"), ("/help", "help")),
    "auditor": (("/audit", "audit"), ("/officer", "officer"), ("/officer/appeals", "appeals"), ("/account", "account"), ("/help", "help")),
}  # fmt: skip
_STEPS = (("days", 86400), ("hours", 3600), ("minutes", 60))


@dataclass(frozen=True, slots=True)
class Words:
    texts: Texts
    zone: tzinfo
    workday_ns: int = 86400 * 10**9

    def when(self, at_ns: int) -> str:
        """2026-01-31 14:05, with the zone's name: no order of day and month to guess."""
        moment = datetime.fromtimestamp(at_ns / 1e9, UTC).astimezone(self.zone)
        return f"{moment:%Y-%m-%d %H:%M} {moment.tzname()}"

    def iso(self, at_ns: int) -> str:
        """For <time datetime>."""
        return datetime.fromtimestamp(at_ns // 10**9, UTC).isoformat()

    def span(self, duration_ns: int) -> str:
        """The largest unit of a duration: "3 days", "5 hours", "1 minute"."""
        seconds = abs(duration_ns) // 10**9
        for unit, length in _STEPS:
            if seconds >= length or unit == "minutes":
                return self.texts.count(f"unit.{unit}", max(1, round(seconds / length)))
        raise AssertionError

    def of(self, kind: str, word: str | None) -> str:
        """The word for a state, an action, a role, a category…; the word itself when the language has none."""
        key = f"{kind}.{word}"
        return self.texts.t(key) if self.texts.has(key) else str(word)

    def working(self, duration_ns: int | None) -> str:
        """A promised time, which runs in the office's working hours."""
        if duration_ns is None:
            return self.texts.t("unit.no-time")
        if duration_ns and duration_ns % self.workday_ns == 0:
            return self.texts.count("unit.working-days", duration_ns // self.workday_ns)
        return self.texts.t("unit.working", time=self.span(duration_ns))

    def about(self, view: View) -> str:
        """What the state means; of a waiting application, whom it waits for."""
        waits = {"provider-unknown": "nobody", "provider-refused": "refused"}.get(
            view.next_step, view.next_step
        )
        if view.state == "pending" and self.texts.has(f"waits.{waits}"):
            return self.texts.t(f"waits.{waits}")
        return self.texts.t(f"state-about.{view.state}")

    def next(self, view: View) -> str:
        return self.texts.t(f"next.{view.next_step}")

    def field(self, name: str, value: Any) -> str:
        """What a field of the form says."""
        if name.endswith("_prefixes"):
            return self.prefixes(value)
        if name in ("protocols", "endpoint_ports"):
            kind = "protocol" if name == "protocols" else "port"
            return ", ".join(self.of(kind, str(each)) for each in value) or self.texts.t(
                f"registration.any-{kind}"
            )
        if name == "documents":
            value = "; ".join(self.document(each) for each in value)
        return (
            self.of("category", value) if name == "category" else value or self.texts.t("registration.empty")
        )

    def document(self, document: Document) -> str:
        """A paper that was named, with what it is known by."""
        kind = self.of("document", document.kind)
        return f"{kind} ({document.reference})" if document.reference else kind

    def label(self, name: str) -> str:
        """A field of the form, whoever's it is."""
        return self.texts.t("officer.line" if name == "subscriber_prefixes" else f"field.{name}")

    def prefixes(self, prefixes: tuple[str, ...], between: str = ", ") -> str:
        """A prefix that is one address is shown as the address."""
        return between.join(each.removesuffix("/32" if "." in each else "/128") for each in prefixes)

    def documents(self, alternatives: tuple[str, ...]) -> str:
        """One thing to bring: any of these papers."""
        return self.texts.t("document.or").join(self.of("document", each) for each in alternatives)

    def zone_name(self, at_ns: int) -> str:
        return str(datetime.fromtimestamp(at_ns / 1e9, self.zone).tzname())

    def navigation(self, account: Account | None) -> tuple[tuple[str, str], ...]:
        """(path, key of texts nav.*) for the visitor's role."""
        return _NAVIGATION[account.role if account else ""]
