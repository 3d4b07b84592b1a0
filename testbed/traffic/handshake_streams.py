"""The requests of each handshake stream of a plan, and what counts as their answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from testbed.plan.plan import Plan, Service, Stream
from testbed.traffic.driver import Handshake
from testbed.traffic.handshake_responder import ResponderKeys
from testbed.traffic.handshakes import HandshakeProbe


def handshake_streams(plan: Plan, keys: Mapping[str, Path]) -> dict[str, Handshake]:
    """By stream name. keys: the key file of each node's responder (Services.handshake_keys).

    WireGuard's requests are built now, for they cost 0.3 ms each.
    """
    services = {service.name: service for service in plan.services}
    loaded = {node: ResponderKeys.load(path) for node, path in keys.items()}
    return {
        stream.name: _handshake(stream, services[stream.target], loaded)
        for stream in plan.streams
        if stream.probe == "handshake"
    }


def _handshake(stream: Stream, service: Service, keys: Mapping[str, ResponderKeys]) -> Handshake:
    probe = HandshakeProbe(
        service.protocol or "", stream.name, wireguard_server=keys[service.node].wireguard_public
    )
    if service.protocol == "wireguard":
        probe.prebuild(range(len(stream.at_ns)))
    return Handshake(
        probe.transport,
        request=lambda attempt: probe.request(attempt.index),
        is_answer=lambda attempt, data: probe.is_answer(data, attempt.index),
    )
