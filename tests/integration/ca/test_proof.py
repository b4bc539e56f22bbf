"""Proof of possession that is tied to the connection (RFC 7030, 3.5), as libest's clients send it: over TLS 1.2."""

from __future__ import annotations

import asyncio
import base64
import http.client
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgetrust.pki.csr import build_csr
from edgetrust.pki.names import Names
from edgetrust.pki.softkeys import SoftKey
from support.ca_server import CaServer, body, ca_server, certificates_in
from support.pki import key


@pytest.fixture
async def est(tmp_path: Path) -> AsyncIterator[CaServer]:
    async with ca_server(tmp_path) as server:
        yield server


def ask(est: CaServer, root: Path, auth: str, *, version: ssl.TLSVersion, said: str | None = None) -> tuple[int, bytes]:
    """Connect, take the channel binding, ask for a certificate with it (or with what is `said` instead)."""
    context = ssl.create_default_context(cafile=str(root))
    context.minimum_version = context.maximum_version = version
    connection = http.client.HTTPSConnection("localhost", est.port, context=context, timeout=30)
    connection.connect()
    finished = connection.sock.get_channel_binding("tls-unique")
    proof = base64.b64encode(finished).decode() if said is None else said
    pem = build_csr(SoftKey("k", key("proof")), Names("dev1"), challenge_password=proof)
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    headers = {"Content-Type": "application/pkcs10", "Authorization": auth}
    connection.request("POST", "/.well-known/est/simpleenroll", body(der), headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, text


async def test_a_proof_is_verified_where_it_can_be(est: CaServer) -> None:
    auth, root = await est.password("dev1"), est.root
    good = await asyncio.to_thread(ask, est, root, auth, version=ssl.TLSVersion.TLSv1_2)
    assert good[0] == 200, good
    (certificate,) = certificates_in(base64.b64decode(good[1]))
    assert certificate.subject.rfc4514_string() == "CN=dev1"
    another = base64.b64encode(b"another's 12").decode()
    for version, said in (
        (ssl.TLSVersion.TLSv1_2, another),  # of another connection
        (ssl.TLSVersion.TLSv1_2, "a secret"),  # as SCEP uses the attribute
        (ssl.TLSVersion.TLSv1_3, None),  # tls-unique is not defined there, whatever the client's library gives
    ):
        status, text = await asyncio.to_thread(ask, est, root, auth, version=version, said=said)
        assert (status, text.partition(b":")[0]) == (403, b"enroll-proof-mismatch"), (version, said)
