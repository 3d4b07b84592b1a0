"""Forms: fields as they came, what is wrong with each, and the words for it. The ledger's own check comes after and is the last word."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from enforcer.protocols import VPN_PROTOCOLS
from enforcer.registry.addresses import kind_of
from enforcer.registry.form import server_name
from enforcer.registry.web.texts import Texts

MAX_TEXT = 2000
MOST_PREFIXES = 1024
# An application for more than this is a mistake or a whole provider; both need an officer's own work.
WIDEST = {4: 16, 6: 32}


@dataclass
class Form:
    """What was typed, and the errors by field in the order they were found.

    helps: by field, the place on the help page (its id) that says what to do about the error. accepts_private: the rule of that name.
    """

    texts: Texts
    fields: Mapping[str, str] = field(default_factory=dict)
    many: Mapping[str, list[str]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    helps: dict[str, str] = field(default_factory=dict)
    accepts_private: bool = False

    def get(self, name: str) -> str:
        return self.fields.get(name, "").strip()

    def all(self, name: str) -> list[str]:
        """The values of a group of checkboxes."""
        return self.many.get(name, [])

    def fail(self, name: str, key: str, **values: Any) -> None:
        """The first error of a field stays."""
        self.errors.setdefault(name, self.texts.t(f"error.{key}", **values))

    def text(self, name: str, most: int = MAX_TEXT, least: int = 1) -> str:
        value = self.get(name)
        if len(value) < least:
            self.fail(name, f"{name}.missing" if self.texts.has(f"error.{name}.missing") else "missing")
        elif len(value) > most:
            self.fail(name, "long", most=most, length=len(value))
        return value

    def version(self) -> int | None:
        """Of the registration that the form was shown with; None when it does not say."""
        value = self.get("version")
        return int(value) if value.isascii() and value.isdigit() and len(value) < 16 else None

    def choice(self, name: str, choices: tuple[str, ...] | list[str]) -> str:
        value = self.get(name)
        if value not in choices:
            self.fail(name, f"{name}.choose" if self.texts.has(f"error.{name}.choose") else "choose")
        return value

    def prefixes(self, name: str) -> list[str]:
        """Addresses and prefixes, in any of the ways people write lists. A single address is a prefix of its own."""
        words = _words(self.get(name))
        if not words:
            self.fail(name, f"{name}.missing")
        if len(words) > MOST_PREFIXES:
            self.fail(name, "too-many", most=MOST_PREFIXES)
        return [prefix for word in words[:MOST_PREFIXES] if (prefix := self._prefix(name, word))]

    def ports(self, name: str) -> list[int]:
        words = _words(self.get(name))
        for word in words:
            if not re.fullmatch(r"[0-9]{1,5}", word) or not 1 <= int(word) <= 65535:
                self.fail(name, "port", value=word[:40])
                return []
        return [int(word) for word in words]

    def protocols(self, name: str) -> list[str]:
        chosen = self.all(name)
        if any(each not in VPN_PROTOCOLS for each in chosen):
            self.fail(name, "choose")
        return [each for each in VPN_PROTOCOLS if each in chosen]

    def address(self, name: str) -> str:
        value = self.get(name)
        try:
            return str(ip_address(value))
        except ValueError:
            self._not_an_address(name, "address", value)
            return value

    def moment_ns(self, name: str, zone: tzinfo, now_ns: int) -> int | None:
        """A date and time as <input type=datetime-local> sends it, or with a space; Unix nanoseconds."""
        value = self.get(name)
        if not value:
            self.fail(name, "moment-missing")
            return None
        try:
            moment = datetime.fromisoformat(value.replace(" ", "T")[:19]).replace(tzinfo=zone)
        except ValueError:
            self.fail(name, "moment", value=value[:40])
            return None
        at_ns = int(moment.timestamp()) * 10**9
        if at_ns > now_ns:
            now = datetime.fromtimestamp(now_ns // 10**9, zone)
            self.fail(name, "future", now=f"{now:%Y-%m-%d %H:%M}", zone=now.tzname())
        elif now_ns - at_ns > timedelta(days=366).total_seconds() * 10**9:
            self.fail(name, "too-old")
        return at_ns

    def _not_an_address(self, name: str, key: str, word: str) -> None:
        host = server_name(word) if name in ("endpoint_prefixes", "destination") else ""
        self.fail(name, "server-name" if host else key, value=(host or word)[:60])

    def _prefix(self, name: str, word: str) -> str | None:
        try:
            network = ip_network(word)
        except ValueError:
            try:
                suggestion = ip_interface(word)
            except ValueError:
                self._not_an_address(name, "prefix", word)
                return None
            # A whole line of addresses or this one only? The applicant must say.
            self.fail(name, "host-bits", value=word, network=suggestion.network, host=suggestion.ip)
            return None
        if network.prefixlen < WIDEST[network.version]:
            self.fail(name, "too-wide", value=word, widest=WIDEST[network.version])
            return None
        if kind := kind_of(network, self.accepts_private):
            if name == "subscriber_prefixes" and name not in self.errors:
                self.helps[name] = "fixed-address"
            self.fail(name, f"{kind}-server" if name == "endpoint_prefixes" else kind, value=word)
            return None
        return str(network)


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[\s,;]+", text) if word]
