"""The services: their configurations, their protocols and what becomes of iperf3's words."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.lab.services import Services, unbound_conf
from testbed.lab.services_https import (
    WANTED_MAX_BYTES,
    answer,
    https_request,
    is_https_complete,
    parse_request,
)
from testbed.plan.plan import Bulk, Tunnel
from testbed.traffic.bulk import command, parse
from tests.small_plan import small_plan

DOWN = Bulk("load", "alice", "bulk-fra", None, 0, 1_000_000_000)


@dataclass(frozen=True)
class Attempt:
    """As much of an attempt as the HTTPS-like protocol needs."""

    id: str = "alice-https#0"
    payload_bytes: int = 1000
    name: str = "web-fra"

    @property
    def stream(self):
        return self

    target = stream


def test_the_resolver_knows_its_zone_and_asks_nobody():
    conf = unbound_conf(small_plan(), "srv")
    for line in (
        "  interface: 10.9.0.10@53",
        "  interface: fd00:9:0::10@53",
        '  module-config: "iterator"',
        '  local-zone: "." refuse',
        '  local-zone: "example." redirect',
        '  local-data: "example. 60 IN A 10.9.0.10"',
        '  local-data: "example. 60 IN AAAA fd00:9:0::10"',
    ):
        assert line in conf.splitlines()


@given(st.integers(0, 100_000), st.text(min_size=1, max_size=20))
def test_an_answer_is_complete_exactly_at_its_last_byte(size, name):
    attempt = Attempt(name, size)
    request = https_request(attempt)
    assert request[:3] == b"\x16\x03\x01" and request[5] == 1  # what every TLS client hello begins with
    parsed = parse_request(request)
    assert parsed is not None and parsed[1] == size
    reply = answer(*parsed)
    assert is_https_complete(attempt, reply)
    assert not is_https_complete(attempt, reply[:-1])
    assert not is_https_complete(attempt, b"")


def test_an_answer_to_somebody_else_or_of_another_kind_is_wrong():
    parsed = parse_request(https_request(Attempt("bob-https#0")))
    assert parsed is not None
    with pytest.raises(ValueError, match="not the ServerHello of this ClientHello"):
        is_https_complete(Attempt(), answer(*parsed))
    with pytest.raises(ValueError, match="not a TLS record"):
        is_https_complete(Attempt(), b"HTTP/1.1 200 OK\r\n")
    mine = parse_request(https_request(Attempt()))
    assert mine is not None
    with pytest.raises(ValueError, match="1001 bytes for the 1000"):
        is_https_complete(Attempt(), answer(mine[0], 1001))


def test_a_request_is_taken_only_whole_and_well_formed():
    request = https_request(Attempt())
    assert all(parse_request(request[:end]) is None for end in range(len(request)))
    for broken in (
        b"GET / HTTP/1.1\r\n",
        request[:5] + b"\x02" + request[6:],
        request[:43] + b"\xff" + request[44:],
    ):
        with pytest.raises(ValueError):
            parse_request(broken)
    with pytest.raises(ValueError, match="can be"):
        https_request(Attempt(payload_bytes=WANTED_MAX_BYTES + 1))


@given(st.binary(max_size=300))
def test_no_bytes_make_the_parser_fail_otherwise(data):
    with contextlib.suppress(ValueError):
        parse_request(data)


def test_bulk_through_a_tunnel_goes_to_its_inner_address_and_from_its_own():
    plan = small_plan(tunnels=(Tunnel("t", "alice", "fra-wireguard", 4, "10.99.1.2/24", 0, 10),))
    argv = command(plan, dataclasses.replace(DOWN, via="t"), 5)
    assert argv[:7] == ["iperf3", "-c", "10.99.1.1", "-p", "5201", "-t", "5"]
    assert argv[-3:] == ["-R", "-B", "10.99.1.2"]
    assert "-R" not in command(plan, dataclasses.replace(DOWN, direction="up"), 5)


@pytest.mark.parametrize(
    ("error", "word"),
    [
        ("unable to connect to server: Connection refused", "connection_refused"),
        ("unable to connect to server: No route to host", "host_unreachable"),
        ("unable to connect to server: Connection timed out", "timeout"),
        ("error - the server is busy running a test. try again later", "harness_error"),
        ("something new", "harness_error"),
    ],
)
def test_what_iperf3_says_becomes_one_word(error, word):
    figures = parse(json.dumps({"intervals": [], "end": {}, "error": error}).encode(), "down")
    assert (figures["failure"], figures["detail"], figures["goodput_bps"]) == (word, error, None)


@pytest.mark.parametrize("output", [b"", b"Segmentation fault", b"[]", b'{"intervals": [], "end": {}}'])
def test_output_without_figures_is_a_harness_error_never_a_success(output):
    assert parse(output, "down")["failure"] == "harness_error"


def test_closing_twice_is_harmless():
    services = Services(None)  # type: ignore[arg-type]
    services.close()
    services.close()
