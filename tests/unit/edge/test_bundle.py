"""The support archive: what is in it, and that no secret of the root is, wherever it may show."""

from __future__ import annotations

import base64
import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgetrust.edge.bundle import REDACTED, scrubbed, write_bundle
from edgetrust.edge.files import DEVICE_ID, EDGE_CA, MASTER_IDENTITY_KEY, Layout
from edgetrust.edge.keyd import open_keys
from edgetrust.edge.pairs import CertificateStore
from edgetrust.errors import ConfigError
from edgetrust.pki.keys import SecretBytes
from support.pki import Pki

PASSWORD = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters='"\\?&;='), min_size=8)
CONFIG = """
hostname = "edgegateway.local"
[provisioning]
source = "manual"
connection_string = "HostName=hub.example;DeviceId=EdgeGateway;SharedAccessKey={key}"
[cert_issuance.est.auth]
username = "gateway"
password = "{password}"
[aziot_keys]
pkcs11_lib_path = "/usr/lib/token.so"
pkcs11_base_slot = "pkcs11:token=gateway?pin-value={pin}"
[edgetrust.modules.grafana]
command = ["/usr/bin/grafana"]
env = {{ TOKEN = "{password}" }}
"""


def everything(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    device=st.binary(min_size=32, max_size=64),
    master=st.binary(min_size=32, max_size=32),
    password=PASSWORD,
    pin=st.integers(100_000, 99_999_999).map(str),
)
def test_no_secret_of_the_root_is_in_it(
    tmp_path_factory: pytest.TempPathFactory, device: bytes, master: bytes, password: str, pin: str
) -> None:
    """Also when a log has them, in raw, base64 or hexadecimal form."""
    folder = tmp_path_factory.mktemp("root")
    layout = Layout(folder)
    layout.make()
    keys, pki = open_keys(layout), Pki()
    keys.import_secret(DEVICE_ID, SecretBytes(b"k" + device))
    keys.import_secret(MASTER_IDENTITY_KEY, SecretBytes(b"k" + master))
    edge_ca = pki.authority("edge ca")
    keys.import_pem(EDGE_CA, edge_ca.key.private_pem())
    CertificateStore(layout.certificates).save(EDGE_CA, edge_ca.chain)
    shared = base64.b64encode(b"k" + device).decode()
    config = folder / "config.toml"
    config.write_text(CONFIG.format(key=shared, password=password, pin=pin))
    log, pem = folder / "edged.log", edge_ca.key_pem()
    log.write_bytes(
        b"\n".join(
            (b"fine", pem, b"k" + master, (b"k" + master).hex().encode(), base64.b64encode(b"k" + master),
             shared.encode(), password.encode(), f"pin-value={pin}".encode(),
             f"SharedAccessSignature sr=a&sig={shared}&se=1".encode(), b"the end")
        )
    )  # fmt: skip
    archive = folder / "bundle.zip"
    members = write_bundle(archive, layout, config, {"status": {"said": f"{password} {shared}"}}, [log])
    found = everything(archive)
    assert sorted(found) == members
    assert archive.stat().st_mode & 0o777 == 0o600
    for name, content in found.items():
        for secret in (b"k" + device, b"k" + master, (b"k" + master).hex().encode(), shared.encode(),
                       base64.b64encode(b"k" + master), password.encode(), *pem.splitlines()[1:-1]):  # fmt: skip
            assert secret not in content, name
        assert f"pin-value={pin}".encode() not in content
        assert b"PRIVATE KEY" not in content
    assert found["logs/edged.log"].startswith(b"fine\n")
    assert found["logs/edged.log"].endswith(b"the end")


def test_what_helps_is_in_it(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.make()
    chain = Pki().authority("edge ca").chain
    CertificateStore(layout.certificates).save(EDGE_CA, chain)
    open_keys(layout).create_secret(MASTER_IDENTITY_KEY)
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(key="a2V5a2V5a2V5", password="enrols-it", pin="123456"))
    write_bundle(tmp_path / "b.zip", layout, config, {"checks": {"hostname": "ok"}})
    found = everything(tmp_path / "b.zip")
    told = json.loads(found["config.json"])
    assert told["hostname"] == "edgegateway.local"
    assert told["cert_issuance"]["est"]["auth"] == {"username": "gateway", "password": REDACTED}
    assert told["provisioning"] == {"source": "manual", "connection_string": REDACTED}
    assert told["edgetrust"]["modules"]["grafana"]["command"] == ["/usr/bin/grafana"]
    assert json.loads(found["checks.json"]) == {"hostname": "ok"}
    (key,) = json.loads(found["keys.json"])
    assert key["file"].startswith("aziotidentitydmasterid-")
    assert key["mode"] == "0600"
    assert found[f"certificates/{CertificateStore(layout.certificates).path(EDGE_CA).name}"].decode() == chain.pem()


def test_the_shape_of_a_secret_is_enough() -> None:
    for text in (
        b"SharedAccessSignature sr=x&sig=y&se=1",
        b"HostName=h;SharedAccessKey=abc",
        b"sr=eyJr&sig=MTIz",
        b"-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----",
        b"-----BEGIN EC PRIVATE KEY-----\nMII and cut off",
        b"pkcs11:token=t?pin-value=1234",
    ):
        left = scrubbed(b"before " + text + b" after", ())
        assert REDACTED.encode() in left
        for secret in (b"sig=y", b"abc", b"MTIz", b"MII", b"1234"):
            assert secret not in left


def test_where_nothing_is_and_where_nothing_can_be_written(tmp_path: Path) -> None:
    assert write_bundle(tmp_path / "b.zip", Layout(tmp_path / "none"), tmp_path / "config.toml", {}) == [
        "config.json",
        "keys.json",
    ]
    with pytest.raises(ConfigError) as caught:
        write_bundle(tmp_path / "no/such/b.zip", Layout(tmp_path), tmp_path / "config.toml", {})
    assert caught.value.reason == "config-unwritable"
