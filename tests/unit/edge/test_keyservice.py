"""The key service on its socket: every route, who may, and what a handle is worth. Checked with openssl."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgetrust.edge.files import key_file_name
from edgetrust.edge.handles import DerivedId, HandleError, Handles, KeyId, KeyPairId
from edgetrust.edge.keyservice import KeyService
from edgetrust.edge.principals import Principal, Principals
from edgetrust.errors import ConfigError
from edgetrust.pki.keys import SecretBytes
from edgetrust.pki.softkeys import FileKeyStore, SoftKey
from edgetrust.transport.unix import serve_unix
from support.pki import key as made_key
from support.pki import openssl
from support.sockets import As, Client, served

VERSION = "2021-05-01"
OTHER = 65_534
PRINCIPALS = Principals((Principal(OTHER, keys=("own-*", "exact?"), certs=("own",)),))


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


class Bench:
    def __init__(self, client: Client, who: As, store: FileKeyStore, folder: Path) -> None:
        self.client, self.who, self.store, self.folder = client, who, store, folder

    async def pair(self, key_id: str, algorithms: str = "*") -> str:
        body = {"keyId": key_id, "preferredAlgorithms": algorithms}
        return str((await self.client.ok("POST", "/keypair", body))["keyHandle"])

    async def key(self, key_id: str) -> str:
        return str((await self.client.ok("POST", "/key", {"keyId": key_id, "usage": "derive,sign"}))["keyHandle"])

    def rsa_pair(self, key_id: str) -> rsa.RSAPrivateKey:
        private = made_key("keyd", "rsa-2048")
        assert isinstance(private, rsa.RSAPrivateKey)
        self.store.import_pem(key_id, SoftKey(key_id, private).private_pem())
        return private


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    store, who = FileKeyStore(tmp_path / "keys", key_file_name), As()
    async with served(KeyService(store, PRINCIPALS).app(who), tmp_path / "keyd.sock", VERSION) as client:
        yield Bench(client, who, store, tmp_path)


# Key pairs ------------------------------------------------------------------------------------------------------------


async def test_a_pair_is_made_once_loaded_moved_and_deleted(bench: Bench) -> None:
    first, second = await bench.pair("device id"), await bench.pair("device id", "rsa-2048")
    assert first != second
    ok = bench.client.ok
    for handle in (first, second):
        assert (await ok("POST", "/parameters/algorithm", {"keyHandle": handle}))["value"] == "ECDSA"
    await ok("POST", "/keypair/moved%2Fto", {"from": "device id"}, status=204)
    assert (await bench.client.call("GET", "/keypair/device%20id")).status == 400
    handle = (await ok("GET", "/keypair/moved%2Fto"))["keyHandle"]
    await ok("DELETE", "/keypair", {"keyHandle": handle}, status=204)
    assert not bench.store.exists("moved/to")


async def test_ecdsa_over_a_digest_is_what_openssl_verifies(bench: Bench) -> None:
    handle = await bench.pair("p256")
    digest = hashlib.sha256(b"message").digest()
    body = {"keyHandle": handle, "algorithm": "ECDSA", "parameters": {"digest": b64(digest)}}
    signature = base64.b64decode((await bench.client.ok("POST", "/sign", body))["signature"])
    (bench.folder / "sig").write_bytes(signature)
    (bench.folder / "digest").write_bytes(digest)
    public = bench.store.load("p256").public_key()
    (bench.folder / "pub.pem").write_bytes(
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    verified = openssl("pkeyutl", "-verify", "-pubin", "-inkey", "pub.pem", "-sigfile", "sig", "-in", "digest",
                       "-pkeyopt", "digest:sha256", cwd=bench.folder)  # fmt: skip
    assert verified.returncode == 0, verified.stdout + verified.stderr
    point = (await bench.client.ok("POST", "/parameters/ec-point", {"keyHandle": handle}))["value"]
    assert len(base64.b64decode(point)) == 33
    oid = (await bench.client.ok("POST", "/parameters/ec-curve-oid", {"keyHandle": handle}))["value"]
    assert base64.b64decode(oid) == bytes.fromhex("2a8648ce3d030107")


async def test_the_rsa_operations_are_the_private_key_operation(bench: Bench) -> None:
    private = bench.rsa_pair("rsa")
    numbers = private.public_key().public_numbers()
    handle = (await bench.client.ok("GET", "/keypair/rsa"))["keyHandle"]
    info = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(b"m").digest()
    for algorithm, content in (("RSA-PKCS1", info), ("RSA-NO-PADDING", b"\0" + b"\x42" * 255)):
        body = {"keyHandle": handle, "algorithm": algorithm, "plaintext": b64(content)}
        made = base64.b64decode((await bench.client.ok("POST", "/encrypt", body))["ciphertext"])
        opened = pow(int.from_bytes(made, "big"), numbers.e, numbers.n).to_bytes(256, "big")
        assert opened == (b"\0\1" + b"\xff" * 202 + b"\0" + info if algorithm == "RSA-PKCS1" else content)
    modulus = (await bench.client.ok("POST", "/parameters/rsa-modulus", {"keyHandle": handle}))["value"]
    assert int.from_bytes(base64.b64decode(modulus), "big") == numbers.n
    exponent = (await bench.client.ok("POST", "/parameters/rsa-exponent", {"keyHandle": handle}))["value"]
    assert base64.b64decode(exponent) == b"\1\0\1"


# Symmetric keys -------------------------------------------------------------------------------------------------------


async def test_a_module_key_is_derived_and_signs_as_hmac(bench: Bench) -> None:
    master = await bench.key("aziot_identityd_master_id")
    data = b"$edgeHub:637911101449272999:primary"
    derived = (await bench.client.ok("POST", "/derivedkey", {"baseKeyHandle": master, "derivationData": b64(data)}))[
        "keyHandle"
    ]
    raw = bench.store.load_secret("aziot_identityd_master_id").reveal()
    expected = hmac.new(raw, data, hashlib.sha256).digest()
    exported = await bench.client.ok("POST", "/derivedkey/export", {"keyHandle": derived})
    assert base64.b64decode(exported["key"]) == expected
    body = {"keyHandle": derived, "algorithm": "HMAC-SHA256", "parameters": {"message": b64(b"m")}}
    signed = await bench.client.ok("POST", "/sign", body)
    assert base64.b64decode(signed["signature"]) == hmac.new(expected, b"m", hashlib.sha256).digest()
    nested = await bench.client.call("POST", "/derivedkey", {"baseKeyHandle": derived, "derivationData": ""})
    assert (nested.status, "nested derived keys are not supported" in nested.body["message"]) == (400, True)
    whole = await bench.client.call("POST", "/derivedkey/export", {"keyHandle": master})
    assert whole.status == 400


async def test_an_imported_key_overwrites_and_is_deleted(bench: Bench) -> None:
    await bench.key("k")
    await bench.client.ok("POST", "/key", {"keyId": "k", "usage": "sign", "keyBytes": b64(b"x" * 16)})
    assert bench.store.load_secret("k").reveal() == b"x" * 16
    handle = (await bench.client.ok("GET", "/key/k"))["keyHandle"]
    await bench.client.ok("DELETE", "/key", {"keyHandle": handle}, status=204)
    assert (await bench.client.call("GET", "/key/k")).status == 400


async def test_aead_is_aes_gcm_with_a_version_and_takes_the_older_form(bench: Bench) -> None:
    handle, iv = await bench.key("k"), b"a text of thirty-two characters!"
    parameters = {"iv": b64(iv), "aad": b64(b"module1")}
    body = {"keyHandle": handle, "algorithm": "AEAD", "parameters": parameters, "plaintext": b64(b"secret")}
    made = base64.b64decode((await bench.client.ok("POST", "/encrypt", body))["ciphertext"])
    cipher = AESGCM(bench.store.load_secret("k").reveal())
    assert made[:1] == b"\2"
    assert cipher.decrypt(iv, made[1:], b"module1") == b"secret"
    older = b"\1" + made[-16:] + made[1:-16]
    for content in (made, older):
        asked = {"keyHandle": handle, "algorithm": "AEAD", "parameters": parameters, "ciphertext": b64(content)}
        opened = await bench.client.ok("POST", "/decrypt", asked)
        assert base64.b64decode(opened["plaintext"]) == b"secret"
    for change in ({"aad": b64(b"module2")}, {"iv": b64(b"12345678")}):
        asked = {**body, "parameters": {**parameters, **change}, "ciphertext": b64(made)}
        refused = await bench.client.call("POST", "/decrypt", asked)
        assert (refused.status, "not made with this key" in refused.body["message"]) == (400, True)


# Who may --------------------------------------------------------------------------------------------------------------


async def test_by_identifier_the_uid_counts_and_by_handle_the_handle(bench: Bench) -> None:
    handle = await bench.key("not-his")
    await bench.pair("other")
    bench.who.uid = OTHER
    for method, path, body in (
        ("POST", "/key", {"keyId": "not-his", "usage": "sign"}),
        ("GET", "/key/not-his", None),
        ("POST", "/keypair", {"keyId": "other"}),
        ("GET", "/keypair/other", None),
        ("POST", "/keypair/own-x", {"from": "other"}),
        ("GET", "/key/handle-validation-key", None),
        ("POST", "/keypair", {"keyId": "exact"}),
    ):
        refused = await bench.client.call(method, path, body)
        assert refused.status == 401
        assert refused.body["message"].startswith(f"user {OTHER} is not authorized to access the key ")
    assert await bench.pair("own-x")
    assert await bench.pair("exact1")
    signed = {"keyHandle": handle, "algorithm": "HMAC-SHA256", "parameters": {"message": ""}}
    await bench.client.ok("POST", "/sign", signed)


async def test_forged_handles_are_refused_and_good_ones_outlive_a_restart(bench: Bench, tmp_path: Path) -> None:
    handle, other = await bench.key("a"), await bench.key("b")
    named, signature = handle.split("&sig=")
    raw = json.loads(base64.b64decode(named[3:]))
    raw["key_id"] = {"Key": "b"}
    forgeries = [
        f"{named}&sig={other.split('&sig=')[1]}",
        f"sr={b64(json.dumps(raw).encode())}&sig={signature}",
        handle[:-4] + "AAA=",
        "sr=&sig=",
        "nonsense",
        "sr=%&sig=%",
        handle + "x" * 70_000,
    ]
    for forged in forgeries:
        body = {"keyHandle": forged, "algorithm": "HMAC-SHA256", "parameters": {"message": ""}}
        refused = await bench.client.call("POST", "/sign", body)
        assert refused.status == 400
        assert refused.body["message"].startswith('parameter "handle" has an invalid value')
    again = KeyService(bench.store, PRINCIPALS).app(bench.who)
    async with served(again, tmp_path / "again.sock", VERSION) as client:
        body = {"keyHandle": handle, "algorithm": "HMAC-SHA256", "parameters": {"message": ""}}
        await client.ok("POST", "/sign", body)


def test_handles_name_what_they_were_made_for() -> None:
    handles = Handles(SecretBytes(b"v" * 32))
    for key in (KeyPairId("device-id"), KeyId("k"), DerivedId("sr=..", b"\0data")):
        assert handles.read(handles.make(key)) == key
    with pytest.raises(HandleError):
        Handles(SecretBytes(b"w" * 32)).read(handles.make(KeyId("k")))


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"keyId": ""}, 400),
        ({"keyId": "x", "preferredAlgorithms": "dsa:ed25519"}, 400),
        ({"key": "x"}, 422),
        (["x"], 422),
    ],
)
async def test_bodies_that_are_wrong(bench: Bench, body: object, status: int) -> None:
    assert (await bench.client.call("POST", "/keypair", body)).status == status


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"algorithm": "ECDSA", "parameters": {"digest": b64(b"short")}}, 400),
        ({"algorithm": "HMAC-SHA256", "parameters": {"message": ""}}, 400),
        ({"algorithm": "ECDSA", "parameters": {}}, 422),
        ({"algorithm": "ECDSA", "parameters": {"digest": "%"}}, 422),
        ({"algorithm": "ECDSA"}, 422),
        ({"algorithm": "MD5", "parameters": {"digest": ""}}, 422),
    ],
)
async def test_what_a_pair_does_not_do(bench: Bench, body: dict[str, object], status: int) -> None:
    handle = await bench.pair("p")
    assert (await bench.client.call("POST", "/sign", {"keyHandle": handle, **body})).status == status
    encrypted = {"keyHandle": handle, "algorithm": "RSA-PKCS1", "plaintext": ""}
    assert (await bench.client.call("POST", "/encrypt", encrypted)).status == 400


@pytest.mark.parametrize("body", [{}, {"usage": ""}, {"usage": "sign,verify"}, {"usage": "sign", "keyBytes": "%"}])
async def test_a_symmetric_key_is_for_something(bench: Bench, body: dict[str, str]) -> None:
    assert (await bench.client.call("POST", "/key", {"keyId": "k", **body})).status == 422
    assert not bench.store.exists("k")


# The rules that all services share ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "message"),
    [
        ("GET", "/key/x", {"query": ""}, 400, "api-version not specified"),
        ("GET", "/key/x", {"query": "api-version=1"}, 400, 'invalid api-version "1"'),
        ("GET", "/nothing", {}, 404, "not found"),
        ("GET", "/sign", {}, 400, "method not allowed"),
        ("HEAD", "/key/x", {}, 400, None),
        ("POST", "/sign", {}, 400, "missing request body"),
        ("POST", "/sign", {"data": b"{"}, 422, None),
        ("POST", "/sign", {"data": b"\xff\xff"}, 422, None),
        ("POST", "/sign", {"data": b" " * 300_000}, 413, "the request body is too large"),
    ],
)
async def test_the_common_rules(
    bench: Bench, method: str, path: str, options: dict[str, object], status: int, message: str | None
) -> None:
    answer = await bench.client.call(method, path, **options)
    assert answer.status == status
    assert message is None or answer.body == {"message": message}


async def test_half_a_body_is_waited_for_and_then_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetrust.limits.SERVICE_BODY_SECONDS", 0.05)
    reader, writer = await asyncio.open_unix_connection(str(bench.client.path))
    writer.write(f"POST /sign?api-version={VERSION} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
    assert (await reader.readline()).split()[1] == b"408"
    writer.close()


async def test_the_eleventh_open_request_of_a_user_is_cut_without_a_word(bench: Bench) -> None:
    head = f"POST /sign?api-version={VERSION} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n".encode()
    streams = [await asyncio.open_unix_connection(str(bench.client.path)) for _ in range(10)]
    for _, writer in streams:
        writer.write(head)
    await asyncio.sleep(0.05)
    reader, writer = await asyncio.open_unix_connection(str(bench.client.path))
    writer.write(head)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    bench.who.uid = OTHER  # somebody else is not disturbed
    assert (await bench.client.call("GET", "/key/own-none")).status == 400
    for _, other in (*streams, (reader, writer)):
        other.close()


async def test_a_failure_inside_is_a_number_and_no_detail(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bench.store, "create", full)
    answer = await bench.client.call("POST", "/keypair", {"keyId": "x"})
    assert (answer.status, answer.body) == (500, {"message": "internal error"})


# The socket -----------------------------------------------------------------------------------------------------------


async def test_a_dead_socket_is_replaced_a_live_one_is_not_and_long_paths_work(bench: Bench, tmp_path: Path) -> None:
    store = FileKeyStore(tmp_path / "k2", key_file_name)
    with pytest.raises(ConfigError) as caught:
        await serve_unix(KeyService(store, PRINCIPALS).app(), bench.client.path)
    assert caught.value.reason == "socket-in-use"
    deep = tmp_path / ("d" * 60) / ("e" * 60) / "keyd.sock"
    for _ in range(2):
        deep.parent.mkdir(parents=True, exist_ok=True)
        deep.touch()
        server = await serve_unix(KeyService(store, PRINCIPALS).app(), deep, mode=0o600)
        assert deep.stat().st_mode & 0o777 == 0o600
        await server.close()
        assert not deep.exists()
