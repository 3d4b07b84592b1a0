"""The dataplanes that load their rules into a router's kernel, as their tests use them: one at a time, made and called in its namespace.

A test module imports the fixtures `lab` and `kind` (its tests run once for each of KINDS), or defines a `kind` of its own.
"""

from __future__ import annotations

import pytest

from enforcer.dataplanes.nfqueue import NfqueueDataplane
from enforcer.dataplanes.nft import NftDataplane
from tests.dataplane_lab import router
from tests.dataplane_traffic import STRICT

BOTH = pytest.mark.parametrize("version", [4, 6])
KINDS = {"nft": NftDataplane, "nfqueue": NfqueueDataplane}
NFT_ONLY = pytest.mark.parametrize("kind", ["nft"], indirect=True)  # what nfqueue cannot do: its SHORTCOMINGS


@pytest.fixture(params=KINDS, autouse=True)
def kind(request):
    Dataplane.kind = KINDS[request.param]


@pytest.fixture
def lab():
    with router() as made:
        yield made


class Dataplane:
    """The dataplane in the router's namespace; every call is made there."""

    kind = NftDataplane

    def __init__(self, lab, policy=STRICT, **options):
        self._lab = lab
        with lab.inside():
            self._dataplane = self.kind(policy, **options)

    def __getattr__(self, name):
        def call(*arguments, **named):
            with self._lab.inside():
                return getattr(self._dataplane, name)(*arguments, **named)

        return call
