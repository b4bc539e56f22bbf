"""Configurations as tutorials of IoT Edge have them: applied as they are, with the names and files of this test.

What concerns containers is said to have no effect; nothing else is.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from edgetrust.edge.apply import apply
from edgetrust.edge.credentials import DeviceCertificate, DeviceKey, DeviceTpm, IssuedIdentity
from edgetrust.edge.edgeca import EdgeCaFiles, IssuedCa, QuickstartCa
from edgetrust.edge.settings import load_settings
from support.edge_world import write_holder
from support.pki import Pki
from support.tutorials import (
    BELOW_A_GATEWAY,
    BY_CONNECTION_STRING,
    DPS_KEY,
    DPS_TPM,
    DPS_X509,
    EST,
    LOCAL_CA,
    TRANSPARENT_GATEWAY,
    filled,
)

TUTORIALS = {
    "connection string": (BY_CONNECTION_STRING, DeviceKey, QuickstartCa),
    "transparent gateway": (TRANSPARENT_GATEWAY, DeviceCertificate, EdgeCaFiles),
    "below a gateway": (BELOW_A_GATEWAY, DeviceKey, EdgeCaFiles),
    "symmetric key": (DPS_KEY, DeviceKey, QuickstartCa),
    "X.509": (DPS_X509, DeviceCertificate, QuickstartCa),
    "TPM": (DPS_TPM, DeviceTpm, QuickstartCa),
    "EST": (EST, IssuedIdentity, IssuedCa),
    "local CA": (LOCAL_CA, IssuedIdentity, IssuedCa),
}


@pytest.mark.parametrize("name", TUTORIALS)
def test_it_applies_as_it_is(name: str, tmp_path: Path) -> None:
    pki, (text, credential, edge_ca) = Pki(datetime.now(UTC)), TUTORIALS[name]
    write_holder(tmp_path, "identity", pki.device("EdgeGateway"))
    write_holder(tmp_path, "edge-ca", pki.authority("the edge ca"), root=True)
    (tmp_path / "root.pem").write_text(pki.root.chain.pem())
    config = tmp_path / "config.toml"
    config.write_text(filled(text, tmp_path))
    applied = apply(config, tmp_path / "root")
    assert applied.changed
    without = {warning.partition(" ")[0] for warning in applied.warnings if "has no effect" in warning}
    assert without == {"agent", "connect", "listen", "watchdog", "moby_runtime", "image_garbage_collection"}
    settings = load_settings(applied.path)
    assert isinstance(settings.credential, credential)
    assert isinstance(settings.edge_ca, edge_ca)
    assert not apply(config, tmp_path / "root").changed
