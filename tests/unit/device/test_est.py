"""The EST client: what it asks, what it takes, and what it says when it gets something else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgetrust.device.est import EstAnswerError, EstRefusedError, EstServer, Shown, ca_certificates, enroll
from edgetrust.errors import ConfigError, Error, UnavailableError
from edgetrust.pki.csr import build_csr, renewal_csr
from edgetrust.pki.keys import SecretText
from edgetrust.pki.names import Names
from edgetrust.pki.softkeys import SoftKey
from support.est_server import TestEst
from support.pki import Pki

KEY = SoftKey.generate("sensor")
CSR = build_csr(KEY, Names("sensor"), ((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),))


@pytest.fixture
async def est() -> AsyncIterator[TestEst]:
    made = TestEst()
    await made.start()
    yield made
    await made.stop()


async def test_the_chain_has_the_leaf_first_and_each_issuer_behind_what_it_issued(est: TestEst) -> None:
    bootstrap = est.bootstrap()
    chain = await enroll(est.server(), CSR, Shown(bootstrap.chain, bootstrap.key))
    assert chain.end_entity == est.issued[0]
    assert chain.intermediates == tuple(holder.certificate for holder in reversed(est.pki.issuers))
    assert [(one.operation, one.client, one.authorization) for one in est.asked] == [
        ("simpleenroll", "CN=bootstrap", None)
    ]


async def test_a_renewal_asks_for_the_same_names_as_their_holder(est: TestEst) -> None:
    held = est.pki.device("sensor", hosts=("sensor.example",))
    await enroll(est.server(), renewal_csr(KEY, held.certificate), Shown(held.chain, held.key), renewing=True)
    asked = est.asked[0]
    assert (asked.operation, asked.client) == ("simplereenroll", "CN=sensor")
    names = asked.request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["sensor.example"]


async def test_a_password_goes_as_http_basic(est: TestEst) -> None:
    await enroll(est.server(user="estuser", password=SecretText("estpwd")), CSR, None)
    assert (est.asked[0].client, est.asked[0].authorization) == (None, "Basic ZXN0dXNlcjplc3Rwd2Q=")


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        (web.Response(status=401, text="who are you"), EstRefusedError, "est-not-authorized"),
        (web.Response(status=403), EstRefusedError, "est-not-authorized"),
        (web.Response(status=400, text="no such profile"), EstRefusedError, "est-refused"),
        (web.Response(status=302, headers={"Location": "https://elsewhere/"}), EstRefusedError, "est-refused"),
        (web.Response(status=202, headers={"Retry-After": "7"}), UnavailableError, "est-pending"),
        (web.Response(status=503), UnavailableError, "est-unavailable"),
        (web.Response(text="hello"), EstAnswerError, "est-answer-malformed"),
        (web.Response(body=b"????", content_type="application/pkcs7-mime"), EstAnswerError, "est-answer-malformed"),
        (web.Response(body=b"", content_type="application/pkcs7-mime"), EstAnswerError, "est-answer-malformed"),
        (
            web.Response(body=b"A" * 300_000, content_type="application/pkcs7-mime"),
            EstAnswerError,
            "est-answer-too-large",
        ),
    ],
)
async def test_what_is_no_certificate_is_told_apart(
    est: TestEst, answer: web.Response, kind: type[Error], reason: str
) -> None:
    est.answer = lambda: answer
    with pytest.raises(kind) as caught:
        await enroll(est.server(user="u"), CSR, None)
    assert caught.value.reason == reason
    if isinstance(caught.value, UnavailableError):
        assert caught.value.retry_after == (7 if reason == "est-pending" else 60)


async def test_ca_certificates_must_come_too(est: TestEst) -> None:
    est.cacerts_status = 500
    with pytest.raises(UnavailableError) as caught:
        await enroll(est.server(user="u"), CSR, None)
    assert caught.value.reason == "est-unavailable"


async def test_a_certificate_for_another_key_is_not_taken(est: TestEst) -> None:
    est.certifies = x509.load_pem_x509_csr(build_csr(SoftKey.generate("other"), Names("sensor")))
    with pytest.raises(EstAnswerError) as caught:
        await enroll(est.server(user="u"), CSR, None)
    assert caught.value.reason == "est-answer-other-key"


async def test_another_server_is_told_nothing(est: TestEst) -> None:
    stranger = EstServer(est.url, Pki(datetime.now(UTC), root_name="stranger").bundle, "u", SecretText("p"))
    with pytest.raises(EstRefusedError) as caught:
        await enroll(stranger, CSR, None)
    assert caught.value.reason == "est-server-not-trusted"
    assert est.asked == []


async def test_a_server_that_is_away(est: TestEst) -> None:
    server = est.server()
    await est.stop()
    with pytest.raises(UnavailableError) as caught:
        await ca_certificates(server)
    assert caught.value.reason == "est-unreachable"


@pytest.mark.parametrize("url", ["http://est.example/.well-known/est", "est.example", "https://"])
def test_an_address_without_tls_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EstServer(url)
    assert caught.value.reason == "est-url"
