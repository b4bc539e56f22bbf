"""The names of the files of a bundle, and how the top of a fleet reaches its hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgetrust.pki.chain import TrustBundle

IDENTITY: Final = "identity.cert.pem"
IDENTITY_KEY: Final = "identity.key.pem"
EDGE_CA: Final = "edge-ca.cert.pem"
EDGE_CA_KEY: Final = "edge-ca.key.pem"
BOOTSTRAP: Final = "bootstrap.cert.pem"
BOOTSTRAP_KEY: Final = "bootstrap.key.pem"
TRUST: Final = "trust.pem"
HUB_TRUST: Final = "hub.pem"
EST_TRUST: Final = "est.pem"
DPS_TRUST: Final = "dps.pem"
SYMMETRIC_KEY: Final = "symmetric.key"
CONFIG: Final = "config.toml"
CONNECTION: Final = "connection.json"
STRING: Final = "connection-string"
README: Final = "README.txt"


@dataclass(frozen=True, slots=True)
class HubPlace:
    """How the top of the fleet reaches the hub. `roots` verify it; None: the system's store does."""

    name: str
    address: str | None
    mqtt_port: int
    https_port: int
    roots: TrustBundle | None
