"""Bytes that have a documented first message's form, for asking what would be decided about a flow that nobody has sent."""

from __future__ import annotations

from enforcer.protocols import FIRST_MESSAGES, GRE_PPTP_TYPE, FirstMessage

PPTP_GRE = bytes((0x20, 0x01)) + GRE_PPTP_TYPE.to_bytes(2, "big") + bytes(4)  # RFC 2637 section 4.1


def first_bytes(protocol: str, transport: str) -> bytes | None:
    """What a client of the protocol says first; None when nothing documented marks it."""
    for message in FIRST_MESSAGES:
        if (message.protocol, message.transport) == (protocol, transport) and not message.from_server:
            return _bytes(message)
    return None


def _bytes(message: FirstMessage) -> bytes:
    fields = [field for field in message.fields if not field.is_absent]
    least = max((field.offset + field.size for field in fields), default=1)
    data = bytearray(message.lengths[0] if message.lengths else least)
    data.extend(bytes(max(0, least - len(data))))
    for field in fields:
        data[field.offset : field.offset + field.size] = field.values[0].to_bytes(field.size, "big")
    return bytes(data)
