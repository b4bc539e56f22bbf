"""A hub to talk to, and a gateway's settings that point at it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgetrust.clock import SystemClock
from edgetrust.edge.credentials import DeviceKey
from edgetrust.edge.edgeca import QuickstartCa
from edgetrust.edge.reaching import UpstreamAddress
from edgetrust.edge.settings import Listen, Settings
from edgetrust.pki.keys import KeyAlgorithm, SecretBytes
from edgetrust.pki.renewal import AutoRenew
from support.fake_hub import FakeHub
from support.pki import Pki

DEVICE_KEY = SecretBytes(b"d" * 32)


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[FakeHub]:
    made = FakeHub(Pki(now=SystemClock().now()), tmp_path)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def settings_for(tmp_path: Path) -> Callable[[FakeHub], Settings]:
    """The settings of a gateway whose hub is the given one, verified by its root."""

    def make(hub: FakeHub) -> Settings:
        ca = tmp_path / "hub-root.pem"
        ca.write_text(hub.pki.root.chain.pem())
        return replace(PLAIN, upstream=UpstreamAddress("hub.example", "127.0.0.1", 1, hub.port, ca))

    return make


PLAIN = Settings(
    source=Path("config.toml"),
    hostname="edgegateway.local",
    hub="hub.example",
    device="EdgeGateway",
    credential=DeviceKey(DEVICE_KEY),
    edge_ca=QuickstartCa(90, None, AutoRenew()),
    trust_bundle=None,
    listen=Listen("127.0.0.1", 0, 0),
    upstream=UpstreamAddress("hub.example", "127.0.0.1", 1, 1, None),
    hub_verified_anchors=True,
    thumbprint_needs_common_name=False,
    keep_dollar_in_certificate_ids=True,
    server_key=KeyAlgorithm.P256,
    prefer_backup=False,
    retries=1,
)
