"""What the dataplanes' tests send between a client and a server, and the entries that register it."""

from __future__ import annotations

from importlib.resources import files

from enforcer.allowlist import Allowlist, Entry
from enforcer.packet import parse
from enforcer.policy import parse_policy
from tests import enforcer_packets as make
from tests.dataplane_lab import wait_until

STRICT = parse_policy((files("enforcer") / "policies" / "registered-pairs.policy.yaml").read_text())
LINE = {4: "10.0.0.7", 6: "fd00::7"}
OTHER_LINE = {4: "10.0.0.8", 6: "fd00::8"}
SERVER = {4: "198.51.100.9", 6: "2001:db8:9::9"}


def entry(number=7, line=LINE, **changes):
    values = {
        "registration": number,
        "registrant": "softhouse",
        "subscriber_prefixes": (f"{line[4]}/32", f"{line[6]}/128"),
        "endpoint_prefixes": (f"{SERVER[4]}/32", f"{SERVER[6]}/128"),
    }
    return Entry(**(values | changes))


def listing(*entries):
    return Allowlist(1, {each.registration: each for each in entries})


def delivered(lab, data, from_server=False):
    """Whether the packet comes out on the other side. A packet that must pass goes after it, so that no answer is a no."""
    source, sink = (lab.server, lab.client) if from_server else (lab.client, lab.server)
    delivered.count += 1
    before = len(sink.collect())
    source.send(data)
    version = data[0] >> 4
    ends = (SERVER[version], LINE[version]) if from_server else (LINE[version], SERVER[version])
    token = b"sentinel %d" % delivered.count
    # A flow of its own each time, so that it takes the same way, a queue included.
    source.send(make.udp(*ends, 10000 + delivered.count, 33001, token))
    wait_until(lambda: any(packet.endswith(token) for packet in sink.collect()))
    wanted = parse(data)
    return any(
        (parse(packet).src, parse(packet).dst, parse(packet).payload)
        == (wanted.src, wanted.dst, wanted.payload)
        and parse(packet).protocol == wanted.protocol
        for packet in sink.seen[before:]
    )


delivered.count = 0


def wireguard(version, port=51820, src_port=40000, data=make.WIREGUARD_INITIATION, line=LINE):
    return make.udp(line[version], SERVER[version], src_port, port, data)


def answer(version, port=51820, dst_port=40000, data=make.WIREGUARD_RESPONSE, line=LINE):
    return make.udp(SERVER[version], line[version], port, dst_port, data)
