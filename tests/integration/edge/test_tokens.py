"""A gateway whose keys are in a token (SoftHSM): its identity, which it shows to the hub by TLS, its Edge CA, and
preloaded ones. The token is filled and looked at by pkcs11-tool.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from edgetrust.pki.chain import Chain
from support.edge_world import World, edgetrust
from support.est_server import Served, TestEst
from support.pki import Holder
from support.provisioned import NAME, ask, enroll, gateway, serves

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
TOKEN, PIN = "pkcs11:token=Key%20pairs", "?pin-value=1234"


@pytest.fixture(autouse=True)
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of one's own, for the processes that are started."""
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    made = ["softhsm2-util", "--init-token", "--free", "--label", "Key pairs", "--pin", "1234", "--so-pin", "5678"]
    subprocess.run(made, check=True, capture_output=True, timeout=60)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path, TestEst(life=timedelta(hours=1), begin=timedelta(seconds=-60)))
    yield made
    made.stop()


def tool(*arguments: str) -> bytes:
    command = ["pkcs11-tool", "--module", MODULE, "--token-label", "Key pairs", "--login", "--pin", "1234"]
    return subprocess.run([*command, *arguments], check=True, capture_output=True, timeout=60).stdout


def made_in_token(label: str, kind: str) -> Any:
    """A key pair that pkcs11-tool makes in the token; its public half."""
    tool("--keypairgen", "--key-type", kind, "--label", label, "--id", label.encode().hex())
    return public(label)


def public(label: str) -> Any:
    return load_der_public_key(tool("--read-object", "--type", "pubkey", "--label", label))


def certified(folder: Path, name: str, issuer: Holder, template: Holder, key: Any) -> Path:
    """A certificate like `template` for another key, with its issuers, in a file."""
    builder = x509.CertificateBuilder().subject_name(template.certificate.subject)
    builder = builder.issuer_name(issuer.certificate.subject).public_key(key).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(template.certificate.not_valid_before_utc)
    builder = builder.not_valid_after(template.certificate.not_valid_after_utc)
    for extension in template.certificate.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectKeyIdentifier):
            value = x509.SubjectKeyIdentifier.from_public_key(key)
        builder = builder.add_extension(value, extension.critical)
    made = builder.sign(issuer.private_key, SHA256())  # type: ignore[arg-type]
    path = folder / f"{name}.pem"
    path.write_text(Chain((made, *issuer.full_chain.certificates)).pem())
    return path


def test_certificates_whose_keys_are_named_in_a_token(world: World, tmp_path: Path) -> None:
    pki = world.pki
    identity = certified(tmp_path, "id", pki.issuing, pki.device(NAME), made_in_token("id-key", "rsa:2048"))
    edge_ca = certified(tmp_path, "ca", pki.issuing, world.edge_ca(), made_in_token("ca-key", "EC:prime256v1"))
    shown = Chain.from_pem(identity.read_bytes()).thumbprint().hex()
    world.device(NAME, "--edge", "--thumbprint", shown, "--secondary-thumbprint", shown)
    made = world.gateway(pki.device("unused"), quickstart=True)
    config = made.root.parent / "config.toml"
    text = config.read_text()
    start, rest = text.index("identity_cert"), text.index("[edgetrust.listen]")
    config.write_text(
        f"""{text[:start]}identity_cert = "file://{identity}"
identity_pk = "{TOKEN};object=id-key{PIN}"
[edge_ca]
cert = "file://{edge_ca}"
pk = "{TOKEN};object=ca-key{PIN}"
[preloaded_keys]
my-key = "{TOKEN};object=my-key{PIN}"
[aziot_keys]
pkcs11_lib_path = "{MODULE}"
{text[rest:]}"""
    )
    edgetrust("edge", "apply", "-c", str(config), "--root", str(made.root))
    made.start()
    serves(world, made)
    assert ask(made, "POST", "/identities/modules", {"type": "aziot", "moduleId": "m"})[0] == 200
    assert sorted(made.keys.glob("*")) == sorted([*made.keys.glob("azi*master*"), *made.keys.glob("iotedge*"),
                                                  *made.keys.glob("handle*")])  # fmt: skip

    def keyd(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return ask(made, method, path, body, socket="keyd", version="2021-05-01")

    assert keyd("GET", "/keypair/my-key")[0] == 400
    assert keyd("POST", "/keypair", {"keyId": "my-key", "preferredAlgorithms": "ec-p256:*"})[0] == 200
    status, handle = keyd("GET", "/keypair/my-key")
    assert status == 200
    digest = hashlib.sha256(b"what is signed").digest()
    parameters = {"digest": base64.b64encode(digest).decode()}
    signed = keyd("POST", "/sign", {**handle, "algorithm": "ECDSA", "parameters": parameters})[1]["signature"]
    key = public("my-key")
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(base64.b64decode(signed), digest, ec.ECDSA(utils.Prehashed(SHA256())))
    assert keyd("DELETE", "/keypair", handle)[0] == 400  # its place is the user's
    assert "1234" not in made.text()


def test_all_keys_that_are_made_are_made_in_the_token(world: World, served: Served, tmp_path: Path) -> None:
    (tmp_path / "est.pem").write_text(served.est.pki.root.chain.pem())
    dps = ["--dir", str(world.hub_folder)]
    edgetrust("dps", "ca", "add", "est", str(tmp_path / "est.pem"), "--verified", *dps)
    enroll(world, "group", "create", "fleet", "--ca-name", "est")
    attestation = (
        f'[provisioning.attestation]\nmethod = "x509"\nregistration_id = "{NAME}"\n'
        '[provisioning.attestation.identity_cert]\nmethod = "est"\n'
    )
    extra = f'[aziot_keys]\npkcs11_lib_path = "{MODULE}"\npkcs11_base_slot = "{TOKEN}{PIN}"\n{served.issuance()}'
    made = gateway(world, attestation, extra=extra)
    config = made.root.parent / "config.toml"
    text = config.read_text()
    start, rest = text.index("[edge_ca]"), text.index("[edgetrust.listen]")
    config.write_text(f'{text[:start]}[edge_ca]\nmethod = "est"\n{text[rest:]}')
    made.trust.write_text(served.est.pki.bundle.pem())
    made.start()
    serves(world, made)
    assert [one.client for one in served.est.asked][:2] == ["CN=bootstrap", f"CN={NAME}"]
    for label in ("device-id", "aziot-edged-ca", "est-id"):
        assert b"never extractable" in tool("--list-objects", "--type", "privkey", "--label", label)
        assert list(made.keys.glob(f"{label.replace('-', '')}*")) == []
