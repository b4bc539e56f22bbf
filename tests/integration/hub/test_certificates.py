"""CA certificates: upload, proof of possession made with openssl, retirement."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from support import pki as odd
from support.hub import Answer, World, devices_pki, run
from support.surface import HTTP, surface


async def upload(world: World, certificate: str, name: str = "ca", verified: bool = False, **headers: str) -> Answer:
    body = {"properties": {"certificate": certificate, "isVerified": verified}}
    return await world.ask("PUT", f"/certificates/{name}", body, **headers)


def pem() -> str:
    return devices_pki().root.chain.pem()


async def proof(world: World, common_name: str, signer: odd.Holder | None = None, days: int = 1) -> str:
    """A certificate for a code, issued by openssl with the CA's key."""
    folder = world.directory
    ca = signer or devices_pki().root
    (folder / "ca.pem").write_text(ca.chain.pem())
    (folder / "ca.key").write_bytes(ca.key_pem())
    request, made = folder / "proof.csr", folder / "proof.pem"
    new = ["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", str(folder / "proof.key")]
    code, said = await run(*new, "-subj", f"/CN={common_name}", "-out", str(request))
    assert code == 0, said
    sign = ["openssl", "x509", "-req", "-in", str(request), "-CA", str(folder / "ca.pem"), "-CAkey"]
    code, said = await run(*sign, str(folder / "ca.key"), "-CAcreateserial", "-days", str(days), "-out", str(made))
    assert code == 0, said
    return made.read_text()


@surface(HTTP, "possession")
async def test_proof_of_possession(each_world: World) -> None:
    world = each_world
    made = await upload(world, base64.b64encode(pem().encode()).decode())
    assert made.status == 201
    shown = made.json
    assert (shown["name"], shown["type"]) == ("ca", "Microsoft.Devices/IotHubs/Certificates")
    properties = shown["properties"]
    assert properties["isVerified"] is False
    assert "verificationCode" not in properties
    assert properties["thumbprint"] == devices_pki().root.chain.thumbprint("sha1").hex()
    assert parsedate_to_datetime(properties["expiry"]) > datetime.now(UTC)
    assert base64.b64decode(properties["certificate"]).decode() == pem()

    coded = await world.ask("POST", "/certificates/ca/generateVerificationCode", If_Match=made.etag)
    assert coded.status == 200
    code = coded.json["properties"]["verificationCode"]
    assert len(code) == 48
    assert coded.etag != made.etag
    assert "verificationCode" not in (await world.ask("GET", "/certificates/ca")).json["properties"]

    certificate = await proof(world, code)
    world.clock.advance(60)  # openssl has used the machine's clock
    stale = await world.ask("POST", "/certificates/ca/verify", {"certificate": certificate}, If_Match=made.etag)
    assert (stale.status, stale.error) == (412, "PreconditionFailed")
    encoded = base64.b64encode(certificate.encode()).decode()
    verified = await world.ask("POST", "/certificates/ca/verify", {"certificate": encoded}, If_Match=coded.etag)
    assert verified.status == 200
    assert verified.json["properties"]["isVerified"] is True
    assert verified.etag != coded.etag

    listed = (await world.ask("GET", "/certificates")).json["value"]
    assert [entry["name"] for entry in listed] == ["ca"]
    assert listed[0] == verified.json
    gone = await world.ask("DELETE", "/certificates/ca", If_Match=verified.etag)
    assert gone.status == 204
    missing = await world.ask("GET", "/certificates/ca")
    assert (missing.status, missing.error) == (404, "CertificateNotFound")


@pytest.mark.parametrize(
    "wrong", ["another code", "another key", "a code that was replaced", "no code", "no certificate"]
)
async def test_no_proof(world: World, wrong: str) -> None:
    etag = (await upload(world, pem())).etag
    code = "0" * 48
    if wrong != "no code":
        coded = await world.ask("POST", "/certificates/ca/generateVerificationCode", If_Match=etag)
        code, etag = coded.json["properties"]["verificationCode"], coded.etag
    if wrong == "a code that was replaced":
        etag = (await world.ask("POST", "/certificates/ca/generateVerificationCode", If_Match=etag)).etag
    signer = devices_pki().impostor().root if wrong == "another key" else None
    shown = await proof(world, "1" * 48 if wrong == "another code" else code, signer)
    world.clock.advance(60)
    if wrong == "no certificate":
        shown = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
    answer = await world.ask("POST", "/certificates/ca/verify", {"certificate": shown}, If_Match=etag)
    assert answer.status == 400
    assert answer.error in ("ArgumentInvalid", "GenericBadRequest")
    assert (await world.ask("GET", "/certificates/ca")).json["properties"]["isVerified"] is False


async def test_every_form_of_a_certificate(world: World) -> None:
    der = base64.b64encode(devices_pki().root.certificate.public_bytes(odd.Encoding.DER)).decode()
    forms = [pem(), base64.b64encode(pem().encode()).decode(), der]
    for number, form in enumerate(forms):
        assert (await upload(world, form, f"ca{number}")).status == 201
    prints = {entry["properties"]["thumbprint"] for entry in (await world.ask("GET", "/certificates")).json["value"]}
    assert len(prints) == 1


async def test_what_is_no_ca_certificate(world: World) -> None:
    pki = devices_pki()
    expired = odd.root("old", now=datetime.now(UTC), **odd.EXPIRED)
    wrong = [
        "",
        "text",
        "no base64!",
        "AAAA",
        pki.device("d1").chain.pem(),
        pki.root.key_pem().decode(),
        expired.chain.pem(),
    ]
    for certificate in wrong:
        answer = await upload(world, certificate)
        assert answer.status == 400, certificate
        assert answer.error in ("ArgumentInvalid", "GenericBadRequest")
        assert "PRIVATE" not in answer.body.decode()
    for name in ("a%20b", "x" * 65, "a%2Fb", "%24"):
        assert (await upload(world, pem(), name)).status == 400, name
    assert (await world.ask("GET", "/certificates")).json == {"value": []}


async def test_etags(world: World) -> None:
    etag = (await upload(world, pem())).etag
    for headers in ({}, {"If_Match": '"AAAA"'}):
        again = await upload(world, pem(), **headers)
        assert (again.status, again.error) == (412, "PreconditionFailed")
        for method, path in (("DELETE", ""), ("POST", "/generateVerificationCode")):
            answer = await world.ask(method, f"/certificates/ca{path}", **headers)
            assert (answer.status, answer.error) == (412, "PreconditionFailed")
    replaced = await upload(world, pem(), verified=True, If_Match=etag)
    assert replaced.status == 200
    assert replaced.json["properties"]["isVerified"] is True
    missing = await upload(world, pem(), "another", If_Match="*")
    assert (missing.status, missing.error) == (404, "CertificateNotFound")


async def test_the_thumbprint_is_what_openssl_prints(world: World, tmp_path: Path) -> None:
    file = tmp_path / "root.pem"
    file.write_text(pem())
    _, said = await run("openssl", "x509", "-in", str(file), "-noout", "-fingerprint", "-sha1")
    shown = (await upload(world, pem())).json["properties"]["thumbprint"]
    assert said.decode().strip().partition("=")[2].replace(":", "") == shown
    assert json.dumps(shown).isascii()
