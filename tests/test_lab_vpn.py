"""The parts of the lab's VPNs that need no network: keys, charon's control protocol, options, what is missing."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from testbed.lab.vpn import openvpn
from testbed.lab.vpn.keys import CertificateAuthority, WireGuardKey, tls_crypt_key
from testbed.lab.vpn.servers import option_problems
from testbed.lab.vpn.site import missing_programs
from testbed.lab.vpn.sockets import OuterSocket, _by_tables, is_bound, sockets_of
from testbed.lab.vpn.vici import decode, encode
from testbed.plan.plan import VpnServer
from testbed.traffic.handshakes_openvpn import TlsCrypt

SERVER = VpnServer("fra", "srv", "openvpn-udp", "10.9.0.10", None, 1194, "10.99.1.0/24", "10.99.1.1")


def test_certificates_are_signed_by_the_runs_authority_and_good_for_one_side_only():
    authority = CertificateAuthority()
    root = x509.load_pem_x509_certificate(authority.certificate.encode())
    for issued, purpose in (
        (authority.server("fra", ("10.9.0.10", "fd00:9::10")), "serverAuth"),
        (authority.client("alice"), "clientAuth"),
    ):
        certificate = x509.load_pem_x509_certificate(issued.certificate.encode())
        certificate.verify_directly_issued_by(root)
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert [each._name for each in usage] == [purpose]
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp256r1"
    names = x509.load_pem_x509_certificate(authority.server("fra", ("fd00:9::10",)).certificate.encode())
    alternative = names.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(a) for a in alternative.get_values_for_type(x509.IPAddress)] == ["fd00:9::10"]


def test_another_authority_did_not_sign_it():
    issued = x509.load_pem_x509_certificate(CertificateAuthority().client("alice").certificate.encode())
    other = x509.load_pem_x509_certificate(CertificateAuthority().certificate.encode())
    with pytest.raises(Exception, match=r"^$"):  # InvalidSignature has no words
        issued.verify_directly_issued_by(other)


def test_keys_differ_from_run_to_run_and_have_their_forms():
    assert WireGuardKey.new().private != WireGuardKey.new().private
    assert len(WireGuardKey.new().private_base64) == 44
    assert tls_crypt_key() != tls_crypt_key()
    TlsCrypt(tls_crypt_key())  # raises for a text that is none


names = st.text("abcdefghijklmnopqrstuvwxyz_-", min_size=1, max_size=30)
values = st.one_of(st.text(max_size=40), st.lists(st.text(max_size=40), max_size=4))
messages = st.recursive(
    st.dictionaries(names, values, max_size=4),
    lambda inner: st.dictionaries(names, inner | values, max_size=4),
)


@given(messages)
def test_vici_messages_are_read_back_as_written(message):
    assert decode(encode(message)) == message


def test_vici_bytes_are_those_of_its_readme():
    # The example of strongSwan's src/libcharon/plugins/vici/README.md.
    message = {"key1": "value1", "section1": {"sub-section": {"key2": "value2"}, "list1": ["item1", "item2"]}}
    assert encode(message) == (
        b"\x03\x04key1\x00\x06value1\x01\x08section1\x01\x0bsub-section\x03\x04key2\x00\x06value2\x02"
        b"\x04\x05list1\x05\x00\x05item1\x05\x00\x05item2\x06\x02"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keepalive": "10"}, "fra: openvpn-udp has no option 'keepalive'; it has timers, keepalive_s, wrap"),
        ({"timers": "slow"}, "fra: option timers is 'slow'; write default or bounded"),
        ({"keepalive_s": "10s"}, "fra: option keepalive_s is '10s'; write seconds, a whole number"),
    ],
)
def test_an_option_that_is_not_understood_is_refused_with_what_to_write(options, words):
    assert option_problems(replace(SERVER, options=options)) == [words]


def test_options_that_are_understood_are_not():
    options = {"timers": "bounded", "keepalive_s": "10 60", "wrap": "none"}
    assert option_problems(replace(SERVER, options=options)) == []


def test_openvpn_keepalive_follows_the_options():
    assert openvpn._keepalive(SERVER) == "10 120"
    assert openvpn._keepalive(replace(SERVER, options={"timers": "bounded"})) == "2 10"
    assert openvpn._keepalive(replace(SERVER, options={"keepalive_s": "5"})) == "5 30"
    assert openvpn._keepalive(replace(SERVER, options={"keepalive_s": "5 20"})) == "5 20"


def test_what_is_missing_is_named_with_its_package():
    words = missing_programs({"no-such-program": "some-package", "sh": "dash"})
    assert words == "not installed: sudo apt-get install some-package"


def test_sockets_of_another_process_are_found_both_ways():
    source = (
        "import socket, sys\n"
        "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('127.0.0.1', 0))\n"
        "t = socket.socket(); t.bind(('127.0.0.1', 0)); t.listen()\n"
        "c = socket.create_connection(t.getsockname())\n"
        "print(u.getsockname()[1], t.getsockname()[1], c.getsockname()[1], flush=True)\n"
        "sys.stdin.read()\n"
    )
    argv = [sys.executable, "-c", source]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        udp, tcp, client = map(int, process.stdout.readline().split())
        expected = {
            OuterSocket("udp", udp, 0),
            OuterSocket("tcp", tcp, 0, is_listening=True),
            OuterSocket("tcp", client, tcp, is_established=True),
        }
        assert expected == set(sockets_of(process.pid)) == set(_by_tables(process.pid))
        assert is_bound(process.pid, "tcp", tcp)
        assert not is_bound(process.pid, "tcp", client)  # connected, not listening
        assert not is_bound(process.pid, "udp", tcp)
        process.communicate("")
    assert sockets_of(process.pid) == []
