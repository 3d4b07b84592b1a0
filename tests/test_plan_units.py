"""Quantities in files: what is read, what is refused, and that what is written is read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.units import (
    UnitError,
    parse_duration,
    parse_rate,
    parse_ratio,
    render_duration,
    render_rate,
    render_ratio,
)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("20ms", 20_000_000),
        ("1m30s", 90_000_000_000),
        ("1.5s", 1_500_000_000),
        ("2h", 7_200_000_000_000),
        ("1d", 86_400_000_000_000),
        ("1s500ms", 1_500_000_000),
        ("250us", 250_000),
        ("7ns", 7),
        ("0s", 0),
    ],
)
def test_a_duration_is_read_exactly(text: str, ns: int) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (90, "'90' has no unit; write '90s' ('1m30s') or '90ms'"),
        ("90", "'90' has no unit; write '90s' ('1m30s') or '90ms'"),
        (500, "'500' has no unit; write '500s' ('8m20s') or '500ms'"),
        (5, "'5' has no unit; write '5s' or '5ms'"),
        (1.5, "'1.5' has no unit; write '1.5s' or '1.5ms'"),
        ("30s1m", "'30s1m' has its units out of order; write the larger unit first, each once: '1m30s'"),
        ("-5s", "'-5s' is negative; write '20ms', '90s' or '1m30s'"),
        ("0.5ns", "'0.5ns' is not a whole number of nanoseconds; write fewer digits"),
        ("soon", "'soon' is not a duration; write '20ms', '90s', '1m30s' or '2h' (d, h, m, s, ms, us, ns)"),
        ("5 s", "'5 s' is not a duration; write '20ms', '90s', '1m30s' or '2h' (d, h, m, s, ms, us, ns)"),
        (None, "a duration is needed here; write '20ms', '90s' or '1m30s'"),
        (True, "a duration is needed here; write '20ms', '90s' or '1m30s'"),
        ([1], "a duration is needed here; write '20ms', '90s' or '1m30s'"),
    ],
)
def test_what_is_no_duration_is_refused_with_what_to_write(value: object, message: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse_duration(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "bps"),
    [("10Mbit", 10_000_000), ("64kbit", 64_000), ("15.6Mbit", 15_600_000), ("1Gbit/s", 10**9), ("8bit", 8)],
)
def test_a_rate_is_read_exactly(text: str, bps: int) -> None:
    assert parse_rate(text) == bps


@pytest.mark.parametrize("value", [10, "10", "10MB", "10M", "0Mbit", "0.5bit", "fast", None])
def test_what_is_no_rate_is_refused(value: object) -> None:
    with pytest.raises(UnitError):
        parse_rate(value)


@pytest.mark.parametrize(("text", "ratio"), [("1%", 0.01), ("0.5%", 0.005), ("100%", 1.0), ("0%", 0.0)])
def test_a_share_is_read_exactly(text: str, ratio: float) -> None:
    assert parse_ratio(text) == ratio


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.05, "'0.05' has no unit; write '5%'"),
        (5, "'5' has no unit; write '5%'"),
        ("101%", "'101%' is more than everything; write at most '100%'"),
        ("-1%", "'-1%' is negative; write '1%' or '0.5%'"),
    ],
)
def test_what_is_no_share_is_refused_with_what_to_write(value: object, message: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse_ratio(value)
    assert str(caught.value) == message


@given(st.integers(0, 10**18))
def test_a_rendered_duration_is_read_back(ns: int) -> None:
    assert parse_duration(render_duration(ns)) == ns


@given(st.integers(1, 10**13))
def test_a_rendered_rate_is_read_back(bps: int) -> None:
    assert parse_rate(render_rate(bps)) == bps


@given(st.floats(0, 1))
def test_a_rendered_share_is_read_back(ratio: float) -> None:
    assert parse_ratio(render_ratio(ratio)) == ratio


def test_rendering_refuses_what_cannot_be_read_back() -> None:
    for render, value in ((render_duration, -1), (render_rate, 0), (render_ratio, 1.1)):
        with pytest.raises(ValueError):
            render(value)
