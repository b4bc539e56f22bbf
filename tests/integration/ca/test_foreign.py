"""Programs that are not ours: curl, openssl, strongSwan and GnuTLS enrol, renew, verify, and hear of revocations."""

from __future__ import annotations

import base64
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import ExtensionPolicy, PolicyBuilder, Store

from edgetrust.ca import revocation
from edgetrust.ca.policy import CredentialKind, Rule
from edgetrust.store.est import APPROVED, decide_request, read_requests
from support.ca import csr
from support.ca_server import CaServer, body, ca_server, certificates_in
from support.prometheus import families
from support.surface import CURL, STRONGSWAN, surface


async def request(server: CaServer, name: str, *options: str) -> None:
    """`name.key` and `name.b64`, made by openssl."""
    await server.run(
        "openssl",
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        f"{name}.key",
        "-subj",
        f"/CN={name}",
        "-outform",
        "der",
        "-out",
        f"{name}.der",
        *options,
    )
    await server.run("openssl", "base64", "-in", f"{name}.der", "-out", f"{name}.b64")


async def curl(server: CaServer, operation: str, *options: str) -> bytes:
    text = await server.run(
        "curl", "-sS", "--fail", "--cacert", str(server.root), *options, f"{server.url}/{operation}"
    )
    return base64.b64decode(text)


async def enroll(server: CaServer, name: str, *options: str, operation: str = "simpleenroll") -> x509.Certificate:
    post = ("-H", "Content-Type: application/pkcs10", "--data-binary", f"@{name}.b64")
    (certificate,) = certificates_in(await curl(server, operation, *post, *options))
    (server.directory / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    return certificate


class TestCurlAndOpenssl:
    @surface(CURL, "est-cacerts", "est-enroll", "est-reenroll", "est-csrattrs", "est-serverkeygen")
    async def test_every_operation(self, server: CaServer) -> None:
        await server.password("dev1")
        (server.directory / "cacerts.p7").write_bytes(await curl(server, "cacerts"))
        listed = await server.run("openssl", "pkcs7", "-inform", "der", "-in", "cacerts.p7", "-print_certs", "-noout")
        assert listed.index("Test edge CA") < listed.index("Test root CA")
        await request(server, "dev1")
        first = await enroll(server, "dev1", "-u", "dev1:right")
        shown = ("--cert", "dev1.pem", "--key", "dev1.key")
        second = await enroll(server, "dev1", *shown, operation="simplereenroll")
        assert second.serial_number != first.serial_number
        assert (await curl(server, "csrattrs")).startswith(b"\x30")
        text = await server.run(
            "curl",
            "-sS",
            "--fail",
            "--cacert",
            str(server.root),
            *shown,
            "-H",
            "Content-Type: application/pkcs10",
            "--data-binary",
            "@dev1.b64",
            f"{server.url}/serverkeygen",
        )
        assert "Content-Type: application/pkcs8" in text

    @surface(CURL, "est-cacerts")
    async def test_the_chain_satisfies_strict_verifiers(self, server: CaServer) -> None:
        await server.password("dev1")
        await request(server, "dev1")
        certificate = await enroll(server, "dev1", "-u", "dev1:right")
        above = certificates_in(await curl(server, "cacerts"))
        folder = server.directory
        (folder / "above.pem").write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in above[:-1]))
        await server.run(
            "openssl",
            "verify",
            "-x509_strict",
            "-purpose",
            "sslclient",
            "-CAfile",
            str(server.root),
            "-untrusted",
            "above.pem",
            "dev1.pem",
        )
        (folder / "chain.pem").write_bytes((folder / "dev1.pem").read_bytes() + (folder / "above.pem").read_bytes())
        said = await server.run(
            "certtool",
            "--verify",
            "--load-ca-certificate",
            str(server.root),
            "--infile",
            "chain.pem",
            "--verify-purpose",
            "1.3.6.1.5.5.7.3.2",
        )
        assert "Verified. The certificate is trusted." in said
        anyone = ExtensionPolicy.permit_all()  # a device's only name is its common name
        policy = PolicyBuilder().store(Store([above[-1]])).time(datetime.now(UTC))
        policy = policy.extension_policies(ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=anyone)
        verified = policy.build_client_verifier().verify(certificate, above[:-1])
        assert len(verified.chain) == 3

    async def test_the_servers_own_chain_in_a_strict_context(self, server: CaServer) -> None:
        import asyncio

        context = ssl.create_default_context(cafile=str(server.root))
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
        _, writer = await asyncio.open_connection("localhost", server.port, ssl=context)
        writer.close()
        await writer.wait_closed()

    @surface(CURL, "est-refused")
    async def test_what_is_refused_says_why(self, server: CaServer) -> None:
        await request(server, "dev1", "-addext", "basicConstraints=critical,CA:TRUE")
        await server.password("dev1")
        said = await server.run(
            "curl",
            "-sS",
            "--cacert",
            str(server.root),
            "-u",
            "dev1:right",
            "-H",
            "Content-Type: application/pkcs10",
            "--data-binary",
            "@dev1.b64",
            f"{server.url}/simpleenroll",
        )
        assert said.startswith("enroll-not-a-gateway: ")

    @surface(CURL, "est-waits")
    async def test_a_request_waits_for_a_person(self, tmp_path: Path) -> None:
        rule = Rule(CredentialKind.PASSWORD, approval=True)
        async with ca_server(tmp_path, rules=(rule,)) as server:
            await server.password("dev1")
            await request(server, "dev1")
            post = ("-H", "Content-Type: application/pkcs10", "--data-binary", "@dev1.b64", "-u", "dev1:right")
            said = await server.run(
                "curl", "-sS", "-i", "--cacert", str(server.root), *post, f"{server.url}/simpleenroll"
            )
            assert said.startswith("HTTP/1.1 202 ")
            assert "\r\nRetry-After: 30\r\n" in said
            database = server.service.authority.database
            (waiting,) = await database.read(read_requests)
            await database.write(lambda c: decide_request(c, waiting.id, APPROVED, datetime.now(UTC), ""))
            await enroll(server, "dev1", "-u", "dev1:right")


class TestStrongSwan:
    @surface(STRONGSWAN, "est-cacerts", "est-enroll", "est-reenroll")
    async def test_cacerts_enroll_and_renew(self, server: CaServer) -> None:
        await server.password("sw1")
        url = f"https://localhost:{server.port}"
        trust = ("--cacert", str(server.root))
        await server.run("pki", "--estca", "--url", url, *trust, "--caout", "ca", "--outform", "pem")
        assert any("Test edge CA" in _subject(one) for one in server.directory.glob("ca*.pem"))
        (server.directory / "sw1.key").write_text(
            await server.run("pki", "--gen", "--type", "ecdsa", "--size", "256", "--outform", "pem")
        )
        await server.run("sh", "-c", "pki --req --in sw1.key --type priv --dn CN=sw1 --outform der > sw1.der")
        await server.run(
            "sh",
            "-c",
            f"pki --est --url {url} --cacert {server.root} --in sw1.der --userpass sw1:right --outform pem > sw1.pem",
        )
        await server.run(
            "sh",
            "-c",
            f"pki --est --url {url} --cacert {server.root} --in sw1.der --cert sw1.pem"
            " --key sw1.key --outform pem > renewed.pem",
        )
        first, second = (
            x509.load_pem_x509_certificate((server.directory / f).read_bytes()) for f in ("sw1.pem", "renewed.pem")
        )
        assert first.subject == second.subject
        assert first.serial_number != second.serial_number


def _subject(path: Path) -> str:
    return x509.load_pem_x509_certificate(path.read_bytes()).subject.rfc4514_string()


class TestRevocation:
    @pytest.fixture
    def crl_url(self) -> str:
        return "http://ca.example/ca/crl/{ca}.crl"

    @surface(CURL, "revocation")
    async def test_openssl_sees_it_in_crl_and_ocsp(self, tmp_path: Path, crl_url: str) -> None:
        async with ca_server(tmp_path, http_port=0, crl_url=crl_url) as server:
            await server.password("dev1")
            await request(server, "dev1")
            await enroll(server, "dev1", "-u", "dev1:right")
            await self._says(server, "good")
            wanted = await revocation.plan(server.service.authority, identity="dev1")
            assert [one.what for one in wanted.dependents] == ["dev1 has none left and must enrol anew"]
            await revocation.revoke(server.service.authority, wanted, "keyCompromise")
            await self._says(server, "revoked", "keyCompromise")
            post = ("-H", "Content-Type: application/pkcs10", "--data-binary", "@dev1.b64")
            said = await server.run(
                "curl",
                "-sS",
                "--cacert",
                str(server.root),
                "--cert",
                "dev1.pem",
                "--key",
                "dev1.key",
                *post,
                f"{server.url}/simplereenroll",
            )
            assert said.startswith("enroll-certificate-revoked: ")

    async def _says(self, server: CaServer, status: str, why: str = "") -> None:
        http = f"http://127.0.0.1:{server.service.http_port}/ca"
        chain = server.service.authority.named("edge").chain
        (server.directory / "edge.pem").write_text(chain.pem())
        await server.run("curl", "-sS", "--fail", "-o", "edge.crl", f"{http}/crl/edge.crl")
        shown = await server.run(
            "openssl", "crl", "-inform", "der", "-in", "edge.crl", "-noout", "-text", "-CAfile", "edge.pem", "-verify"
        )
        assert "X509v3 Issuing Distribution Point: critical" in shown
        assert ("Revoked Certificates:" in shown) is (status == "revoked")
        await server.run("openssl", "crl", "-inform", "der", "-in", "edge.crl", "-out", "edge.crl.pem")
        checked = ("openssl", "verify", "-crl_check", "-CAfile", "edge.pem", "-CRLfile", "edge.crl.pem", "dev1.pem")
        said = await server.run(*checked, ok=status == "good")
        assert ("certificate revoked" in said) is (status == "revoked")
        said = await server.run(
            "openssl", "ocsp", "-issuer", "edge.pem", "-cert", "dev1.pem", "-CAfile", "edge.pem", "-url", f"{http}/ocsp"
        )
        assert f"dev1.pem: {status}" in said
        assert why in said

    async def test_prometheus_reads_its_metrics(self, tmp_path: Path) -> None:
        async with ca_server(tmp_path, http_port=0) as server:
            auth = await server.password("dev1")
            assert (await server.ask("POST", "simpleenroll", body(csr("dev1")), auth=auth)).status == 200
            page = await server.run("curl", "-sSf", f"http://127.0.0.1:{server.service.http_port}/metrics")
            issued = families(page)["edgetrust_decisions_total"]
            assert issued[("outcome", "accepted"), ("reason", "simpleenroll")] >= 1

    async def test_ocsp_of_strangers_and_of_nonsense(self, tmp_path: Path) -> None:
        async with ca_server(tmp_path, http_port=0) as server:
            answer = await revocation.answer(server.service.authority, b"nonsense")
            assert answer == bytes.fromhex("30030a0101")
            from support.pki import Pki

            other = Pki()
            from cryptography.hazmat.primitives import hashes
            from cryptography.x509 import ocsp

            builder = ocsp.OCSPRequestBuilder().add_certificate(
                other.device("x").certificate, other.issuing.certificate, hashes.SHA1()
            )
            asked = builder.build().public_bytes(Encoding.DER)
            assert await revocation.answer(server.service.authority, asked) == bytes.fromhex("30030a0106")

    async def test_revoking_a_ca_retires_it_and_says_what_falls(self, server: CaServer) -> None:
        await server.password("dev1")
        await request(server, "dev1")
        await enroll(server, "dev1", "-u", "dev1:right")
        authority = server.service.authority
        wanted = await revocation.plan(authority, identity="<edge>")
        assert [(one.what.split(":")[0], one.count) for one in wanted.dependents] == [
            ("certificates issued by the CA edge", 1)
        ]
        await revocation.revoke(authority, wanted, "cACompromise")
        assert authority.named("edge").row.state == "retired"
        assert authority.default() is None
        crl = x509.load_der_x509_crl(await revocation.RevocationLists(authority).crl("root"))
        assert [entry.serial_number for entry in crl] == [authority.named("edge").row.certificate.serial_number]
