"""EST over HTTPS: each operation, what real clients send, and what nobody should."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_private_key

from edgetrust import limits
from edgetrust.pki.verify import Purpose, VerifiedChain, verify_chain
from edgetrust.store.authorities import fetchers
from edgetrust.store.issuance import thumbprint_of
from support.ca import csr, san
from support.ca_server import HEADERS, CaServer, body, certificates_in


class TestOperations:
    async def test_cacerts_are_open_and_in_order(self, server: CaServer) -> None:
        answer = await server.ask("GET", "cacerts")
        names = [one.subject.rfc4514_string() for one in in_order(answer.body)]
        assert names == ["CN=Test edge CA,O=Test", "CN=Test root CA,O=Test"]
        assert b"\n" in answer.body
        assert max(map(len, answer.body.splitlines())) == 64

    async def test_each_ca_has_a_label(self, server: CaServer) -> None:
        answer = await server.ask("GET", "devices/cacerts")
        assert in_order(answer.body)[0].subject.rfc4514_string() == "CN=Test device identity CA,O=Test"

    async def test_enroll_and_reenroll(self, server: CaServer) -> None:
        auth = await server.password("dev1")
        (first,) = (await server.ask("POST", "simpleenroll", body(csr("dev1", label="a")), auth=auth)).certificates
        verified = verify_chain(_chain(first), server.bundle, Purpose.DEVICE, server.clock.now())
        assert isinstance(verified, VerifiedChain)
        answer = await server.ask("POST", "simplereenroll", body(csr("dev1", label="b")), shown=(first, "a"))
        (second,) = answer.certificates
        assert second.subject == first.subject
        assert second.public_key() != first.public_key()
        refused = await server.ask("POST", "simplereenroll", body(csr("dev2", label="c")), shown=(first, "a"))
        assert (refused.status, refused.reason) == (403, "enroll-name-not-granted")
        refused = await server.ask(
            "POST", "simplereenroll", body(csr("dev1", label="c", extensions=[san("dev1")])), shown=(first, "a")
        )
        assert (refused.status, refused.reason) == (403, "enroll-names-changed")

    @pytest.mark.parametrize("kind", ["ec", "rsa-2048"])
    async def test_a_key_made_by_the_server(self, server: CaServer, kind: str) -> None:
        auth = await server.password("dev1")
        answer = await server.ask("POST", "serverkeygen", body(csr("dev1", kind=kind)), auth=auth)
        assert answer.status == 200
        boundary = answer.headers["Content-Type"].partition("boundary=")[2].encode()
        _, key_part, certificate_part, end = answer.body.split(b"--" + boundary)
        assert end.strip() == b"--"
        assert b"Content-Transfer-Encoding: base64" in key_part
        private = load_der_private_key(base64.b64decode(key_part.partition(b"\r\n\r\n")[2]), None)
        (certificate,) = in_order(certificate_part.partition(b"\r\n\r\n")[2])
        assert certificate.public_key() == private.public_key()
        assert type(private).__name__.startswith("RSA" if kind != "ec" else "EC")

    async def test_serverkeygen_ignores_key_and_signature(self, server: CaServer) -> None:
        auth = await server.password("dev1")
        der = bytearray(csr("dev1"))
        der[-1] ^= 1
        assert (await server.ask("POST", "serverkeygen", body(bytes(der)), auth=auth)).status == 200
        assert (await server.ask("POST", "simpleenroll", body(bytes(der)), auth=auth)).status == 400

    async def test_csrattrs(self, server: CaServer) -> None:
        answer = await server.ask("GET", "csrattrs")
        assert answer.headers["Content-Type"] == "application/csrattrs"
        (server.directory / "attributes").write_bytes(base64.b64decode(answer.body))
        shown = await server.run("openssl", "asn1parse", "-inform", "der", "-in", "attributes")
        assert "Extension Request" in shown
        assert "1.2.840.113549.1.9.16.2.61" in shown


class TestEvidence:
    async def test_who_fetches_with_a_credential_is_known_to_have_the_root(self, server: CaServer) -> None:
        auth, authority = await server.password("dev1"), server.service.authority
        root = thumbprint_of(authority.named("root").row.certificate)
        assert (await server.ask("GET", "cacerts")).status == 200
        assert (await server.ask("GET", "cacerts", auth=aiohttp.encode_basic_auth("dev1", "wrong"))).status == 200
        read = authority.database.read
        assert await read(lambda connection: fetchers(connection, root)) == {}
        assert (await server.ask("GET", "cacerts", auth=auth)).status == 200
        assert set(await read(lambda connection: fetchers(connection, root))) == {"dev1"}

    async def test_passwords_cannot_be_guessed_there_either(self, server: CaServer) -> None:
        await server.password("dev1")
        wrong = aiohttp.encode_basic_auth("dev1", "guess")
        for _ in range(limits.EST_REFUSALS_PER_ADDRESS + 1):
            assert (await server.ask("GET", "cacerts", auth=wrong)).status == 200
        answer = await server.ask("POST", "simpleenroll", body(csr("dev1")), auth=wrong)
        assert answer.status == 429


class TestTolerance:
    """What real clients send (RFC 8951, 3.1 and 3.2.4, and what was seen of them)."""

    @pytest.fixture
    async def ask(self, server: CaServer) -> AsyncIterator[object]:
        auth = await server.password("dev1")

        async def ask(sent: object, **headers: str) -> int:
            more = {name.replace("_", "-"): value for name, value in headers.items()}
            return (await server.ask("POST", "simpleenroll", sent, auth=auth, headers={**HEADERS, **more})).status

        yield ask

    async def test_bodies(self, ask) -> None:  # type: ignore[no-untyped-def]
        der = csr("dev1")
        text = base64.b64encode(der)
        armour = b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(der)
        for sent in (
            text,
            base64.encodebytes(der).replace(b"\n", b"\r\n"),
            b" \t" + text + b"\r\n\r\n",
            armour + b"-----END CERTIFICATE REQUEST-----\n",
        ):
            assert await ask(sent) == 200

    async def test_headers(self, ask) -> None:  # type: ignore[no-untyped-def]
        sent = body(csr("dev1"))
        assert await ask(sent, Content_Transfer_Encoding="base64") == 200
        assert await ask(sent, Content_Transfer_Encoding="binary") == 200
        assert await ask(sent, Content_Type="Application/PKCS10; charset=utf-8") == 200

    async def test_chunks(self, ask) -> None:  # type: ignore[no-untyped-def]
        async def chunks() -> AsyncIterator[bytes]:
            sent = body(csr("dev1"))
            for at in range(0, len(sent), 76):
                yield sent[at : at + 76]

        assert await ask(chunks()) == 200

    async def test_http_1_0_in_title_case_with_a_line_too_many(self, server: CaServer) -> None:
        for version in (b"1.0", b"1.1"):
            answer = await server.raw(
                b"GET /.well-known/est/cacerts HTTP/"
                + version
                + b"\r\nHost: localhost:1\r\nUser-Agent: libest 3.2.0p\r\n"
                b"Connection: close\r\nAccept: */*\r\n\r\n\r\n"
            )
            head, _, rest = answer.partition(b"\r\n\r\n")
            lines = head.split(b"\r\n")
            assert lines[0] == b"HTTP/" + version + b" 200 OK"
            assert f"Content-Length: {len(rest)}".encode() in lines
            assert any(line.startswith(b"Content-Type: application/pkcs7-mime") for line in lines)
            assert b"Transfer-Encoding: chunked" not in head
            assert rest.count(b"\n") > 1

    async def test_one_line_for_who_names_no_agent(self, server: CaServer) -> None:
        answer = await server.raw(b"GET /.well-known/est/cacerts HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert b"\n" not in answer.partition(b"\r\n\r\n")[2]


class TestBadInput:
    async def test_wrong_methods_paths_and_labels(self, server: CaServer) -> None:
        for method, operation, status in (
            ("POST", "cacerts", 405),
            ("GET", "simpleenroll", 405),
            ("GET", "fullcmc", 404),
            ("GET", "nonsense", 404),
            ("GET", "nobody/cacerts", 404),
            ("GET", "edge/edge/cacerts", 404),
            ("GET", "cacerts/cacerts", 404),
        ):
            assert (await server.ask(method, operation)).status == status, operation

    async def test_wrong_types(self, server: CaServer) -> None:
        auth = await server.password("dev1")
        for kind in ("application/x-pem-file", "text/plain"):
            answer = await server.ask("POST", "simpleenroll", body(csr()), auth=auth, headers={"Content-Type": kind})
            assert (answer.status, answer.reason) == (415, "est-content-type")

    @pytest.mark.parametrize(
        "sent", [b"", b"   ", b"not base64!", b"QUJD-_==", base64.b64encode(b"hello"), base64.b64encode(csr() + b"x")]
    )
    async def test_junk(self, server: CaServer, sent: bytes) -> None:
        answer = await server.ask("POST", "simpleenroll", sent, auth=await server.password("dev1"))
        assert (answer.status, answer.reason) == (400, "est-body-malformed")

    async def test_too_much(self, server: CaServer) -> None:
        auth = await server.password("dev1")
        answer = await server.ask("POST", "simpleenroll", b"A" * (limits.EST_BODY_BYTES + 1), auth=auth)
        assert answer.status == 413

    async def test_half_a_body(self, server: CaServer) -> None:
        auth = await server.password("dev1")
        text = body(csr("dev1"))
        request = (
            b"POST /.well-known/est/simpleenroll HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/pkcs10\r\n"
            b"Authorization: " + auth.encode() + b"\r\nContent-Length: " + str(len(text)).encode() + b"\r\n\r\n"
        )
        import asyncio

        from edgetrust.transport.http import https_context

        _, writer = await asyncio.open_connection("localhost", server.port, ssl=https_context(server.bundle))
        writer.write(request + text[:100])
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await server.ask("GET", "cacerts")).status == 200

    async def test_the_answer_to_strangers_asks_for_a_password(self, server: CaServer) -> None:
        answer = await server.ask("POST", "simpleenroll", body(csr()))
        assert (answer.status, answer.reason) == (401, "enroll-unauthenticated")
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")

    async def test_guessing_ends(self, server: CaServer) -> None:
        wrong = aiohttp.encode_basic_auth("dev1", "guess")
        statuses = [
            (await server.ask("POST", "simpleenroll", body(csr()), auth=wrong)).status
            for _ in range(limits.EST_REFUSALS_PER_ADDRESS + 1)
        ]
        assert statuses == [401] * limits.EST_REFUSALS_PER_ADDRESS + [429]
        right = await server.password("dev1")
        late = await server.ask("POST", "simpleenroll", body(csr()), auth=right)
        assert (late.status, late.headers["Retry-After"]) == (429, "2")
        server.clock.advance(2)
        assert (await server.ask("POST", "simpleenroll", body(csr()), auth=right)).status == 200

    async def test_who_is_known_is_not_kept_off_by_guesses_from_the_same_address(self, server: CaServer) -> None:
        """As behind the gateway of a plant, where all have one address."""
        known, late = await server.password("dev1"), await server.password("dev2")
        (held,) = (await server.ask("POST", "simpleenroll", body(csr("dev1", label="a")), auth=known)).certificates
        guess = aiohttp.encode_basic_auth("dev1", "guess")
        for number in range(limits.EST_REFUSALS_PER_ADDRESS + 1):
            status = (await server.ask("POST", "simpleenroll", body(csr()), auth=guess)).status
            assert status == (401 if number < limits.EST_REFUSALS_PER_ADDRESS else 429)
        renewed = await server.ask("POST", "simplereenroll", body(csr("dev1", label="b")), shown=(held, "a"))
        assert renewed.status == 200
        assert (await server.ask("POST", "simpleenroll", body(csr("dev1", label="b")), auth=known)).status == 200
        answer = await server.ask("POST", "simpleenroll", body(csr("dev2")), auth=late)
        assert (answer.status, answer.body) == (429, b"est-too-often: too many requests from this address\n")

    async def test_a_certificate_is_no_licence_to_guess_passwords(self, server: CaServer) -> None:
        known = await server.password("dev1")
        held = (await server.ask("POST", "simpleenroll", body(csr("dev1", label="a")), auth=known)).certificates[0]
        guess = aiohttp.encode_basic_auth("dev2", "guess")
        await server.password("dev2")
        statuses = [
            (await server.ask("POST", "simpleenroll", body(csr("dev2")), auth=guess, shown=(held, "a"))).status
            for _ in range(limits.EST_REFUSALS_PER_ADDRESS + 1)
        ]
        assert 429 not in statuses[:-1]
        assert statuses[-1] == 429
        renewed = await server.ask("POST", "simplereenroll", body(csr("dev1", label="b")), shown=(held, "a"))
        assert renewed.status == 200

    async def test_one_that_is_refused_uses_up_its_own_account(self, server: CaServer) -> None:
        known, late = await server.password("dev1"), await server.password("dev2")
        held = (await server.ask("POST", "simpleenroll", body(csr("dev1", label="a")), auth=known)).certificates[0]
        for _ in range(limits.EST_REFUSALS_PER_ADDRESS + 1):
            answer = await server.ask("POST", "simplereenroll", body(csr("dev9", label="c")), shown=(held, "a"))
            assert (answer.status, answer.reason) == (403, "enroll-name-not-granted")
        assert (await server.ask("POST", "simpleenroll", body(csr("dev2")), auth=late)).status == 200

    async def test_a_password_that_was_replaced_is_known_no_more(self, server: CaServer) -> None:
        old = await server.password("dev1")
        assert (await server.ask("POST", "simpleenroll", body(csr("dev1", label="a")), auth=old)).status == 200
        new = await server.password("dev1", secret="another one")
        statuses = [
            (await server.ask("POST", "simpleenroll", body(csr("dev1")), auth=old)).status
            for _ in range(limits.EST_REFUSALS_PER_ADDRESS + 2)
        ]
        assert statuses == [401] * (limits.EST_REFUSALS_PER_ADDRESS + 1) + [429]  # the first still had an account
        assert (await server.ask("POST", "simpleenroll", body(csr("dev1")), auth=new)).status == 429


def in_order(text: bytes) -> list[x509.Certificate]:
    """The certificates of a certs-only message, in the order in which they were sent."""
    return certificates_in(base64.b64decode(text))


def _chain(certificate: x509.Certificate):  # type: ignore[no-untyped-def]
    from edgetrust.pki.chain import Chain

    return Chain((certificate,))
