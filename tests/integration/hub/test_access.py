"""Who may ask what; what is said to who may not, and what is kept about it."""

from __future__ import annotations

import pytest
import structlog

from edgetrust.errors import IntegrityError
from support.hub import Answer, World, devices_pki, identity_file
from support.prometheus import families

READ, WRITE, SERVICE, DEVICE = "registryRead", "registryReadWrite", "service", "device"
ROUTES = [
    ("GET", "/devices", {READ, WRITE}),
    ("GET", "/devices/d1", {READ, WRITE}),
    ("PUT", "/devices/d9", {WRITE}),
    ("DELETE", "/devices/d1", {WRITE}),
    ("GET", "/devices/d1/modules", {READ, WRITE}),
    ("GET", "/devices/d1/modules/m1", {READ, WRITE}),
    ("PUT", "/devices/d1/modules/m9", {WRITE}),
    ("DELETE", "/devices/d1/modules/m1", {WRITE}),
    ("GET", "/statistics/devices", {READ, WRITE}),
    ("GET", "/statistics/service", {READ, WRITE}),
    ("GET", "/certificates", {READ, WRITE}),
    ("GET", "/certificates/ca", {READ, WRITE}),
    ("PUT", "/certificates/ca", {WRITE}),
    ("DELETE", "/certificates/ca", {WRITE}),
    ("POST", "/certificates/ca/generateVerificationCode", {WRITE}),
    ("POST", "/certificates/ca/verify", {WRITE}),
    ("POST", "/devices/d1/messages/devicebound", {SERVICE}),
    ("DELETE", "/devices/d1/commands", {SERVICE}),
    ("GET", "/edgetrust/events", {SERVICE}),
    ("GET", "/edgetrust/consumers/c", {SERVICE}),
    ("PUT", "/edgetrust/consumers/c", {SERVICE}),
    ("GET", "/edgetrust/refusals", {SERVICE}),
    ("POST", "/edgetrust/explain", {SERVICE}),
    ("POST", "/devices", {WRITE}),
    ("GET", "/edgetrust/identities", {READ, WRITE}),
    ("GET", "/edgetrust/policies", set()),
    ("POST", "/devices/query", {READ, WRITE, SERVICE}),
    ("GET", "/configurations", {READ, WRITE}),
    ("GET", "/configurations/c", {READ, WRITE}),
    ("POST", "/configurations/testQueries", {READ, WRITE}),
    ("POST", "/devices/d1/applyConfigurationContent", {WRITE}),
    ("GET", "/jobs/v2/query", {SERVICE}),
    ("GET", "/jobs/v2/j", {SERVICE}),
    ("POST", "/jobs/v2/j/cancel", {SERVICE}),
    ("GET", "/metrics", {SERVICE}),
]


def unauthorized(answer: Answer) -> None:
    assert answer.status == 401
    assert answer.error == "IotHubUnauthorizedAccess"
    assert "sig" not in answer.body.decode()


async def test_every_route_wants_its_right(world: World) -> None:
    """Each policy on each route: 401 without the right, something else with it; every refusal is on record."""
    await world.create("d1")
    await world.create_module("d1", "m1")
    refused = 0
    for method, path, allowed in ROUTES:
        for policy in (READ, WRITE, SERVICE, DEVICE):
            if policy in allowed and method in ("PUT", "DELETE"):
                continue  # tried elsewhere; here it would change what the next one finds
            body = {} if method in ("PUT", "POST") else None
            answer = await world.ask(method, path, body, token=world.service_token(policy))
            assert (answer.status == 401) is (policy not in allowed), (method, path, policy, answer)
            if answer.status == 401:
                unauthorized(answer)
                refused += 1
    records = await world.refusals()
    assert len(records) == min(refused, 100)
    assert {record["reason"] for record in records} == {"not-authorized"}
    assert records[0]["place"].startswith("GET /metrics")
    assert records[0]["checks"][-1]["name"] == "right"
    assert records[0]["peer"].startswith("127.0.0.1")


@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        (None, "no-credential"),
        ("Bearer abc", "sas-malformed"),
        ("SharedAccessSignature sr=localhost", "sas-malformed"),
        ("x" * 5000, "sas-malformed"),
    ],
)
async def test_no_token(world: World, secret: str | None, reason: str) -> None:
    await world.create("d1")
    for method, path, _ in ROUTES:
        body = {} if method in ("PUT", "POST") else None
        unauthorized(await world.ask(method, path, body, token=secret))
    records = await world.refusals()
    assert len(records) == len(ROUTES)
    assert {record["reason"] for record in records} == {reason}


async def test_tokens_that_do_not_hold(world: World) -> None:
    await world.create("d1")
    foreign = world.service_token().replace("localhost", "elsewhere")
    cases = {
        "sas-expired": world.service_token(seconds=-301),
        "sas-signature-mismatch": world.service_token().replace("skn=iothubowner", "skn=service"),
        "sas-unknown-policy": world.service_token() + "s",
        "sas-other-resource": foreign,
        "unknown-identity": world.token("d1"),
    }
    for reason, secret in cases.items():
        unauthorized(
            await world.ask("GET", "/devices" if reason != "unknown-identity" else "/devices/d2/modules", token=secret)
        )
        assert (await world.refusals())[0]["reason"] == reason
    assert (await world.ask("GET", "/devices", token=world.service_token(seconds=-299))).status == 200
    assert (await world.ask("GET", "/devices", token=world.service_token(secondary=True))).status == 200


async def test_a_device_reaches_itself_only(world: World) -> None:
    await world.gateway("gw")
    await world.create("d1")
    await world.create_module("d1", "m1")
    mine = world.token("d1")
    assert (await world.ask("GET", "/devices/d1/modules", token=mine)).status == 200
    for method, path in (
        ("GET", "/devices/d1"),
        ("GET", "/devices"),
        ("GET", "/devices/gw/modules"),
        ("GET", "/devices/gw/modules/$edgeHub"),
        ("GET", "/edgetrust/events"),
        ("GET", "/certificates"),
        ("DELETE", "/devices/d1"),
        ("GET", "/devices/gw/modules/$edgeHub/scopeVersion"),
    ):
        unauthorized(await world.ask(method, path, token=mine))
    # a module's token is for that module, not for its device
    unauthorized(await world.ask("GET", "/devices/d1/modules", token=world.token("d1/m1")))


async def test_a_certificate_alone_opens_no_service_route(world: World) -> None:
    holder = devices_pki().device("d1")
    await world.by_thumbprint("d1", holder)
    file = identity_file(holder, world.directory)
    answer = await world.curl(f"{world.base}/devices?api-version=2021-04-12", show=file)
    unauthorized(answer)
    assert (await world.refusals())[0]["reason"] == "no-authentication-registered"


async def test_a_disabled_device_and_its_modules(world: World) -> None:
    await world.gateway("gw")
    assert (
        await world.ask("GET", "/devices/gw/modules/$edgeHub/scopeVersion", token=world.token("gw/$edgeHub"))
    ).status == 200
    await world.ask("PUT", "/devices/gw", {"deviceId": "gw", "status": "disabled"}, If_Match="*")
    unauthorized(await world.ask("GET", "/devices/gw/modules", token=world.token("gw")))
    assert (await world.refusals())[0]["reason"] == "disabled"
    unauthorized(await world.ask("GET", "/devices/gw/modules/$edgeHub/scopeVersion", token=world.token("gw/$edgeHub")))
    assert (await world.refusals())[0]["reason"] == "device-disabled"


class TestApiVersion:
    async def test_missing(self, world: World) -> None:
        for query in ("", "?api-version=", "?apiversion=2021-04-12"):
            for path in ("/devices", "/devices/d1", "/devices/d1/modules", "/nothing/here"):
                answer = await world.ask("GET", path + query, version=None)
                assert (answer.status, answer.error) == (400, "InvalidProtocolVersion")

    async def test_any_will_do(self, world: World) -> None:
        for version in ("2017-11-08-preview", "2018-08-30-preview", "2020-09-30", "2024-03-31"):
            assert (await world.ask("GET", "/devices", version=f"api-version={version}")).status == 200

    async def test_what_is_none(self, world: World) -> None:
        for version in ("1", "latest", "2021-04-12x", "2021-4-12", "%20", "2021-04-12-preview-2"):
            answer = await world.ask("GET", "/devices", version=f"api-version={version}")
            assert (answer.status, answer.error) == (400, "InvalidProtocolVersion"), version

    async def test_not_on_our_own_routes(self, world: World) -> None:
        assert (await world.ask("GET", "/edgetrust/health", version=None, token=None)).status == 200


class TestErrors:
    async def test_unknown_routes_and_methods(self, world: World) -> None:
        answer = await world.ask("GET", "/nothing")
        assert (answer.status, answer.error) == (404, "GenericNotFound")
        answer = await world.ask("PATCH", "/devices/d1", {})
        assert (answer.status, answer.error) == (405, "GenericMethodNotAllowed")

    async def test_bodies_that_cannot_be_read(self, world: World) -> None:
        words = [b"", b"{", b"\xff\xfe", b"[]", b"null", b'"d1"', b'{"deviceId":1}', b"{}", b'{"offset":-1}']
        words += [
            b"[" * 100_000,
            b'{"deviceId":"\xff","certificate":"\xff"}',
            b'{"offset":9e18}',
            b'{"offset":%d}' % 2**64,
        ]
        for body in words:
            for method, path in (
                ("PUT", "/devices/d1"),
                ("PUT", "/devices/d1/modules/m"),
                ("PUT", "/certificates/ca"),
                ("POST", "/certificates/ca/verify"),
                ("PUT", "/edgetrust/consumers/c"),
            ):
                answer = await world.ask(method, path, body)
                assert answer.status == 400, (path, body, answer)
                assert answer.error in ("IotHubFormatError", "ArgumentInvalid", "GenericBadRequest")

    async def test_a_body_that_is_too_large(self, world: World) -> None:
        answer = await world.ask("PUT", "/devices/d1", b"{" + b" " * (1024 * 1024 - 1))
        assert answer.status == 400
        answer = await world.ask("PUT", "/devices/d1", b"{" + b" " * 1024 * 1024)
        assert (answer.status, answer.error) == (413, "MessageTooLarge")

    async def test_numbers(self, world: World) -> None:
        wrong = ["after=x", "after=-1", "after=%D9%A1", "limit=1e3", "after=9999999999999999999"]
        wrong += ["wait_seconds=nan", "wait_seconds=-1", "wait_seconds=x"]
        for query in wrong:
            answer = await world.ask("GET", f"/edgetrust/events?{query}", version=None)
            assert (answer.status, answer.error) == (400, "GenericBadRequest")

    async def test_u0000(self, each_world: World) -> None:
        for path in (
            "/edgetrust/events?device=a%00b",
            "/edgetrust/consumers/a%00b",
            "/certificates/a%00b?api-version=2021-04-12",
        ):
            answer = await each_world.ask("GET", path, version=None)
            assert (answer.status, answer.error) == (400, "ArgumentInvalid")

    async def test_a_store_that_is_gone_is_503_with_a_time(self, world: World) -> None:
        await world.hub._database.close()
        answer = await world.ask("GET", "/devices")
        assert (answer.status, answer.error) == (503, "ServiceUnavailable")
        assert int(answer.headers["Retry-After"]) >= 1
        assert (await world.ask("GET", "/edgetrust/health", token=None, version=None)).status == 503

    async def test_a_store_that_contradicts_itself_is_503(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        async def broken(*_: object, **__: object) -> None:
            raise IntegrityError("a row without its key", reason="store-row")

        monkeypatch.setattr(world.hub._identities, "devices", broken)
        with structlog.testing.capture_logs() as logs:
            answer = await world.ask("GET", "/devices")
        assert (answer.status, answer.error) == (503, "ServiceUnavailable")
        assert b"row" not in answer.body
        assert [entry["reason"] for entry in logs if entry["event"] == "request.failed"] == ["store-row"]

    async def test_what_the_server_itself_refuses(self, world: World) -> None:
        answer = await world.curl(
            "-H", "Expect: miracles", "--data", "{}", "-X", "PUT", f"{world.base}/devices/d1?api-version=2021-04-12"
        )
        assert answer.status in (400, 417)

    async def test_a_defect_is_503_without_a_traceback(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """503 and not 500, which the edge runtime reads as a network that is down."""

        async def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError("a defect")

        monkeypatch.setattr(world.hub._identities, "devices", broken)
        with structlog.testing.capture_logs() as logs:
            answer = await world.ask("GET", "/devices")
        assert (answer.status, answer.error) == (503, "ServiceUnavailable")
        assert b"ZeroDivision" not in answer.body
        assert b"defect" not in answer.body
        assert [entry["reason"] for entry in logs if entry["event"] == "request.failed"] == ["defect"]


async def test_no_secret_in_errors_records_or_logs(world: World) -> None:
    """Keys, signatures and tokens of everything that is refused here stay out of what is said and kept."""
    with structlog.testing.capture_logs() as logs:
        await world.create("d1")
        key = world.keys["d1"]
        secrets = [key, world.service_token().partition("sig=")[2].partition("&")[0]]
        answers = [
            await world.ask("GET", "/devices/d1/modules", token=key),  # the key itself instead of a token
            await world.ask("GET", "/devices/d1/modules", token=world.token("d1", key="eHh4eHh4eHh4eHh4eHh4eHh4eHg=")),
            await world.ask(
                "PUT",
                "/devices/d1",
                {"deviceId": "d1", "authentication": {"type": "sas", "symmetricKey": {"primaryKey": key + "!"}}},
                If_Match="*",
            ),
            await world.ask("GET", "/devices", token=world.service_token(seconds=-1000)),
            await world.ask("PUT", "/devices/d1", key.encode(), If_Match="*"),
        ]
        records = str(await world.refusals())
    said = "".join(answer.body.decode() for answer in answers) + records + str(logs)
    for secret in secrets:
        assert secret not in said
    assert [answer.status for answer in answers] == [401, 401, 400, 401, 400]


async def test_metrics(world: World) -> None:
    await world.ask("GET", "/metrics", token="SharedAccessSignature sr=localhost", version=None)
    answer = await world.ask("GET", "/metrics", version=None)
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    read = families(answer.body.decode())
    assert any(dict(labels)["outcome"] == "refused" for labels in read["edgetrust_decisions_total"])
    assert "edgetrust_connections" in read


async def test_health_says_the_version(world: World) -> None:
    from edgetrust import __version__

    answer = await world.curl(f"{world.base}/edgetrust/health")
    assert answer.json == {"status": "ok", "version": __version__}
