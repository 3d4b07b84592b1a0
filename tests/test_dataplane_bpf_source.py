"""The classifier's generated part and its compilation; no privileges needed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib.resources import files

import pytest

from enforcer.cells import KINDS
from enforcer.dataplanes import DataplaneError, bpf_maps, bpf_source
from enforcer.dataplanes.bpf import refuse
from enforcer.policy import Exemption, NamedEndpoint, parse_policy

STRICT = parse_policy((files("enforcer") / "policies" / "registered-pairs.policy.yaml").read_text("utf-8"))
FULL = replace(
    STRICT,
    exempt=(
        Exemption(
            "epdg", "", ("ikev2", "esp"), ("198.51.100.64/26", "2001:db8:9::40/122"), (500,), ("::/0",)
        ),
    ),
    named_endpoints=(NamedEndpoint("openconnect", ("198.51.100.8/29",), (443,)),),
)
needs_clang = pytest.mark.skipif(shutil.which("clang") is None, reason="clang is not installed")


def test_every_governed_port_and_no_other_is_in_the_source():
    header = bpf_source.policy_header(replace(STRICT, governs=("wireguard",), named_endpoints=()))
    assert "p->dst_port == 51820" in header and "p->dst_port == 1194" not in header
    assert f"return {KINDS.index('wireguard')}; /* wireguard */" in header
    assert (
        "dst_port == 51820"
        not in bpf_source.policy_header(replace(STRICT, recognise_by=("first-packets",))).split("is_exempt")[
            0
        ]
    )


@needs_clang
@pytest.mark.parametrize("policy", [STRICT, FULL, replace(STRICT, match="endpoint", mode="observe")])
def test_it_compiles_without_a_warning_and_is_kept(tmp_path, policy, monkeypatch):
    made = bpf_source.compiled(policy, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [made.name]
    monkeypatch.setenv("PATH", "")  # no compiler: it must come from the cache
    assert bpf_source.compiled(policy, tmp_path) == made


def test_a_missing_compiler_is_said_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataplaneError, match="clang is not here; install clang .apt-get install clang."):
        bpf_source.compiled(STRICT, tmp_path)
    assert list(tmp_path.iterdir()) == []


@needs_clang
def test_a_source_that_does_not_compile_is_an_error_with_the_compilers_words(tmp_path, monkeypatch):
    monkeypatch.setattr(bpf_source, "policy_header", lambda policy: "#error no\n")
    with pytest.raises(DataplaneError, match="#error no"):
        bpf_source.compiled(STRICT, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused_is_refused_with_what_to_write():
    for action in ("reject", "police"):
        with pytest.raises(
            DataplaneError, match=f"policy action '{action}' is not offered by bpf; use dataplane: nft"
        ):
            refuse(replace(STRICT, action=action), ("lan0",))
        refuse(replace(STRICT, action=action, mode="observe"), ("lan0",))  # observing, it never happens
    with pytest.raises(DataplaneError, match="inside:"):
        refuse(STRICT, ())


def test_masks_and_keys_are_in_network_order():
    from enforcer.cells import Shape

    shape = Shape(4, 24, 0, True, "wireguard")
    assert bpf_maps.cell_key(5, shape.pack(shape.key(0x0A000102, 0, 51820))) == (
        b"\0\0\0\5" + b"\x0a\0\1\0" + b"\0\0\0\0" + b"\xca\x6c\0\0"
    )
    assert bpf_maps._mask(6, 49) == b"\xff" * 6 + b"\x80" + b"\0" * 9
    assert bpf_maps._mask(4, 0) == b"\0" * 16
