"""Quantities as people write them in files: "20ms", "1m30s", "10Mbit", "1%". A number without a unit is refused.

Durations become integer nanoseconds, rates integer bits per second, ratios floats 0..1. parse(render(x)) == x for all.
"""

from __future__ import annotations

import re
from decimal import Decimal

NS_PER_S = 1_000_000_000

_DURATIONS_NS = {
    "d": 86_400 * NS_PER_S,
    "h": 3_600 * NS_PER_S,
    "m": 60 * NS_PER_S,
    "s": NS_PER_S,
    "ms": 1_000_000,
    "us": 1_000,
    "ns": 1,
}
_RATES_BPS = {"bit": 1, "kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9}

NUMBER = r"[0-9]+(?:\.[0-9]+)?"
DURATION_PATTERN = rf"^(?:{NUMBER}(?:d|h|m|s|ms|us|ns))+$"
RATE_PATTERN = rf"^{NUMBER}(?:bit|kbit|Mbit|Gbit)$"
RATIO_PATTERN = rf"^{NUMBER}%$"

_PART = re.compile(rf"({NUMBER})(d|h|ms|us|ns|m|s)")
_RATE = re.compile(rf"({NUMBER})([A-Za-z]+)(?:/s|ps)?")


class UnitError(ValueError):
    """what is wrong and what to write instead, apart, so that callers can put a place in front."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(f"{what}; {fix}")
        self.what = what
        self.fix = fix


def parse_duration(value: object) -> int:
    """Nanoseconds of "20ms", "1m30s", "1.5h". Raises UnitError, also for numbers without a unit and parts of a nanosecond."""
    text = _text(value, "a duration", "'20ms', '90s' or '1m30s'", ("s", "ms"))
    if not re.fullmatch(DURATION_PATTERN, text):
        raise UnitError(
            f"{text!r} is not a duration", "write '20ms', '90s', '1m30s' or '2h' (d, h, m, s, ms, us, ns)"
        )
    total = Decimal(0)
    last = None
    for number, unit in _PART.findall(text):
        factor = _DURATIONS_NS[unit]
        if last is not None and factor >= last:
            raise UnitError(
                f"{text!r} has its units out of order", "write the larger unit first, each once: '1m30s'"
            )
        last = factor
        total += Decimal(number) * factor
    if total != int(total):
        raise UnitError(f"{text!r} is not a whole number of nanoseconds", "write fewer digits")
    return int(total)


def render_duration(ns: int) -> str:
    """The duration as a person would write it: 90 s is "1m30s", 1500 ms is "1.5s". Raises ValueError when negative."""
    if ns < 0:
        raise ValueError(f"a duration cannot be negative: {ns} ns")
    text = ""
    for unit in ("d", "h", "m"):
        count, ns = divmod(ns, _DURATIONS_NS[unit])
        text += f"{count}{unit}" if count else ""
    if ns == 0:
        return text or "0s"
    unit = next(unit for unit in ("s", "ms", "us", "ns") if ns >= _DURATIONS_NS[unit])
    return text + _plain(Decimal(ns) / _DURATIONS_NS[unit]) + unit


def parse_rate(value: object) -> int:
    """Bits per second of "10Mbit" (also "10Mbit/s"). Raises UnitError."""
    text = _text(value, "a rate", "'10Mbit' or '64kbit'", ("Mbit", "kbit"))
    match = _RATE.fullmatch(text)
    unit = match and _RATES_BPS.get(match[2])
    if not match or not unit:
        raise UnitError(f"{text!r} is not a rate", "write '64kbit', '10Mbit' or '1Gbit' (bits per second)")
    total = Decimal(match[1]) * unit
    if total != int(total) or total == 0:
        raise UnitError(
            f"{text!r} is not a whole, positive number of bits per second", "write for example '10Mbit'"
        )
    return int(total)


def render_rate(bps: int) -> str:
    """The rate in the largest unit that is not larger than it. Raises ValueError unless positive."""
    if bps <= 0:
        raise ValueError(f"a rate must be positive: {bps} bit/s")
    unit = next(unit for unit in ("Gbit", "Mbit", "kbit", "bit") if bps >= _RATES_BPS[unit])
    return _plain(Decimal(bps) / _RATES_BPS[unit]) + unit


def parse_ratio(value: object) -> float:
    """0..1 of "1%". Raises UnitError, also above 100%."""
    if isinstance(value, float) and 0 < value < 1:
        raise UnitError(f"'{value}' has no unit", f"write '{_plain(Decimal(repr(value)).scaleb(2))}%'")
    text = _text(value, "a share", "'1%' or '0.5%'", ("%",))
    if not re.fullmatch(RATIO_PATTERN, text):
        raise UnitError(f"{text!r} is not a share", "write a percentage: '1%' or '0.5%'")
    ratio = Decimal(text[:-1]).scaleb(-2)
    if ratio > 1:
        raise UnitError(f"{text!r} is more than everything", "write at most '100%'")
    return float(ratio)


def render_ratio(ratio: float) -> str:
    """The ratio as a percentage. Raises ValueError outside 0..1."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"a ratio lies between 0 and 1: {ratio}")
    return _plain(Decimal(repr(ratio)).scaleb(2)) + "%"


def _text(value: object, kind: str, example: str, units: tuple[str, ...]) -> str:
    if isinstance(value, bool) or value is None or not isinstance(value, int | float | str):
        raise UnitError(f"{kind} is needed here", f"write {example}")
    text = str(value).strip()
    if re.fullmatch(NUMBER, text):
        written = [f"'{text}{unit}'" for unit in units]
        if "s" in units and "." not in text and int(text) >= 60:
            written[0] += f" ('{render_duration(int(text) * NS_PER_S)}')"
        raise UnitError(f"'{text}' has no unit", "write " + " or ".join(written))
    if text.startswith("-") and re.match(NUMBER, text[1:]):
        raise UnitError(f"{text!r} is negative", f"write {example}")
    return text


def _plain(number: Decimal) -> str:
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
