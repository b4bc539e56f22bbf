"""The certificate service as seen from another process: who asks it, and when."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from edgetrust.edge.certclient import CertificateClient, IssuerClient
from edgetrust.edge.files import EST_ID
from edgetrust.edge.issuing import EstAuth, EstOrder, Method, Order
from edgetrust.edge.upkeep import look_again_after
from edgetrust.pki.chain import Chain
from support.pki import Pki, name, self_signed

ORDER = Order(
    "device-id",
    Method.EST,
    name("gateway"),
    None,
    EstOrder("https://est.example", EstAuth(None, None, None, None, EST_ID)),
)


class _Held(CertificateClient):
    """A certificate service that can be away."""

    def __init__(self, chain: Chain) -> None:
        super().__init__(Path("certd.sock"), Path())
        self.chain, self.asked = chain, 0

    def load(self, certificate_id: str) -> Chain | None:
        self.asked += 1
        return self.chain if certificate_id == EST_ID else None


async def test_est_identities_are_told_without_asking_the_service() -> None:
    """They are shown every few seconds by a process that serves devices meanwhile."""
    held = _Held(Pki().device("gateway").chain)
    issuer = IssuerClient(held, {"device-id": ORDER})
    assert issuer.identities() == []
    await issuer.keep_identities()
    assert held.asked == 1
    assert [(one.identity_id, one.chain) for one in issuer.identities()] == [(EST_ID, held.chain)]
    assert held.asked == 1


@pytest.mark.parametrize(
    ("lives", "seconds"),
    [
        ([], 60),
        ([timedelta(days=30)], 60),
        ([timedelta(days=1), timedelta(minutes=10)], 6),
        ([timedelta(seconds=5)], 1),
    ],
)
def test_short_lives_are_looked_at_more_often(lives: list[timedelta], seconds: float) -> None:
    held = [self_signed("x", begin=timedelta(0), end=life).chain for life in lives]
    assert look_again_after(held) == seconds
