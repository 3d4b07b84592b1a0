"""Prefixes of both families: parsed strictly, and looked up by longest match in pytricia's tries, whose traps end here.

The bare library (1.3.0) takes IPv6 keys into its default 32-bit trie and then answers for IPv4 addresses with the same first
bits, lets `::/0` cover IPv4 and `0.0.0.0/0` IPv6, stores `/33` as `/32`, keeps host bits in its keys, and gives for `trie[prefix]`
the longest match, not the prefix (tests/test_enforcer_prefixes.py shows each).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping
from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET, AF_INET6, inet_pton
from typing import NamedTuple, TypeVar

from pytricia import PyTricia

_FAMILIES = {4: AF_INET, 6: AF_INET6}
_WIDTHS = {4: 32, 6: 128}

V = TypeVar("V")


class Prefix(NamedTuple):
    """version is 4 or 6, address the network's as a number, bits the prefix length."""

    version: int
    address: int
    bits: int

    @classmethod
    def parse(cls, text: str) -> Prefix:
        """From CIDR notation. Raises ValueError: no address, no length or a wrong one, bits set after it."""
        address_text, slash, bits_text = text.partition("/")
        version = 6 if ":" in address_text else 4
        try:
            packed = inet_pton(_FAMILIES[version], address_text)
        except (OSError, ValueError):  # ValueError: characters that are not ASCII, or a zero byte
            raise ValueError(f"{text!r} is not a prefix; write '203.0.113.0/24' or '2001:db8::/48'") from None
        width = _WIDTHS[version]
        if not slash:
            raise ValueError(f"{text!r} has no prefix length; write '{text}/{width}'")
        if not (bits_text.isascii() and bits_text.isdecimal() and len(bits_text) <= 3):
            raise ValueError(f"{bits_text!r} in {text!r} is not a prefix length; write 0 to {width}")
        return cls(version, int.from_bytes(packed, "big"), int(bits_text)).checked()

    def checked(self) -> Prefix:
        """Itself. Raises ValueError when no such prefix exists."""
        width = _WIDTHS.get(self.version)
        if width is None:
            raise ValueError(f"version is {self.version}; it must be 4 or 6")
        if not 0 <= self.address < 1 << width:
            raise ValueError(f"{self.address} is not an IPv{self.version} address")
        if not 0 <= self.bits <= width:
            raise ValueError(f"an IPv{self.version} prefix cannot have {self.bits} bits; write 0 to {width}")
        low = width - self.bits
        if self.address >> low << low != self.address:
            whole = self._replace(address=self.address >> low << low)
            raise ValueError(f"'{self}' has bits set after its prefix length; write '{whole}'")
        return self

    def __str__(self) -> str:
        return f"{(IPv4Address if self.version == 4 else IPv6Address)(self.address)}/{self.bits}"


class PrefixMap(MutableMapping["str | Prefix", V]):
    """Values by prefix. Each mapping method means exactly the prefix it is given; addresses are looked up by the others.

    The families are apart: an IPv4 address is covered by IPv4 prefixes only, `::ffff:0:0/96` and `::/0` included in that.
    Every method that takes a prefix raises ValueError when there is none such.
    """

    def __init__(self, values: Iterable[tuple[str | Prefix, V]] = ()) -> None:
        self._tries = {
            version: PyTricia(width, _FAMILIES[version], True) for version, width in _WIDTHS.items()
        }
        self.update(values)

    def longest(self, version: int, address: int) -> tuple[Prefix, V] | None:
        """The most specific prefix that covers the address, and its value; None without one."""
        trie, key = self._tries[version], None
        if len(trie):
            key = trie.get_key(_packed(version, address))
        return (_prefix(version, key), trie.get(key)) if key is not None else None

    def covering(self, version: int, address: int) -> Iterator[tuple[Prefix, V]]:
        """Every prefix that covers the address, the most specific first, with its value."""
        trie = self._tries[version]
        key = trie.get_key(_packed(version, address))
        while key is not None:
            yield _prefix(version, key), trie.get(key)
            key = trie.parent(key)

    def covers(self, version: int, address: int) -> bool:
        """Whether any prefix covers the address."""
        return self._tries[version].get_key(_packed(version, address)) is not None

    def __setitem__(self, prefix: str | Prefix, value: V) -> None:
        trie, key = self._place(prefix)
        trie.insert(*key, value)

    def __getitem__(self, prefix: str | Prefix) -> V:
        trie, key = self._place(prefix)
        if not trie.has_key(key):
            raise KeyError(prefix)
        return trie.get(key)

    def __delitem__(self, prefix: str | Prefix) -> None:
        trie, key = self._place(prefix)
        if not trie.has_key(key):
            raise KeyError(prefix)
        trie.delete(key)

    def __contains__(self, prefix: object) -> bool:
        if not isinstance(prefix, str | Prefix):
            return False
        trie, key = self._place(prefix)
        return trie.has_key(key)

    def __iter__(self) -> Iterator[Prefix]:
        for version, trie in self._tries.items():
            for key in trie.keys():  # noqa: SIM118 (a trie's own iterator fails when it is changed meanwhile)
                yield _prefix(version, key)

    def __len__(self) -> int:
        return sum(map(len, self._tries.values()))

    def _place(self, prefix: str | Prefix) -> tuple[PyTricia, tuple[bytes, int]]:
        found = prefix.checked() if isinstance(prefix, Prefix) else Prefix.parse(prefix)
        return self._tries[found.version], (_packed(found.version, found.address), found.bits)


def _packed(version: int, address: int) -> bytes:
    """Bytes, for numbers above 64 bits fail in the library. Raises OverflowError for what is no address."""
    return address.to_bytes(4 if version == 4 else 16, "big")


def _prefix(version: int, key: tuple[bytes, int]) -> Prefix:
    return Prefix(version, int.from_bytes(key[0], "big"), key[1])
