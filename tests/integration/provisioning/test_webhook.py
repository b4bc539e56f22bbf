"""Custom allocation: what the webhook is told, and what its answers mean."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from edgetrust.limits import ALLOCATION_TRIES
from edgetrust.provisioning.allocation import Choice
from edgetrust.provisioning.assigning import Assigner
from edgetrust.provisioning.registering import Registering
from edgetrust.provisioning.webhook import Webhooks
from edgetrust.store.engine import Database
from support.enrollments import SCOPE, individual, keys
from support.provisioning import FakeHub, Service, claims, serving


@dataclass
class Webhook:
    """An operator's webhook. `answer` makes its answers."""

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    answer: Callable[[int], tuple[int, Any]] = lambda _number: (200, {"iotHubHostName": "b"})

    async def serve(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        status, body = self.answer(len(self.asked))
        return web.Response(status=status, text=body if isinstance(body, str) else json.dumps(body))


@pytest_asyncio.fixture
async def webhook() -> AsyncIterator[Webhook]:
    made = Webhook()
    app = web.Application()
    app.router.add_post("/choose", made.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/choose"  # type: ignore[union-attr]
    yield made
    await runner.cleanup()


@pytest_asyncio.fixture
async def service(webhook: Webhook) -> AsyncIterator[Service]:
    database = Database("sqlite://")
    await database.migrate()
    async with serving(database, {"a": FakeHub(), "b": FakeHub()}, Choice({"a": 1, "b": 1})) as made:
        webhooks = Webhooks(pause=0)
        assigner = Assigner(made.provisioned, made.hubs, made.choice, webhooks.ask)
        made.registering = Registering(
            SCOPE, made.enrollments, made.provisioned, assigner, made.records, made.clock, made.tasks
        )
        await enroll(made, webhook.url)
        yield made
        await made.tasks.close()
        await webhooks.close()
    await database.close()


async def enroll(service: Service, url: str, if_match: str | None = None) -> None:
    body = individual("own", keys(), allocationPolicy="custom", customAllocationDefinition={"webhookUrl": url})
    await service.enroll(body, if_match=if_match)


async def test_the_webhook_chooses_the_hub_the_twin_and_what_the_device_is_told(
    service: Service, webhook: Webhook
) -> None:
    twin = {"tags": {"by": "webhook"}, "properties": {"desired": {"rate": 7}}}
    webhook.answer = lambda _: (200, {"iotHubHostName": "B", "initialTwin": twin, "payload": {"hello": [1]}})
    state = await service.assigned(claims("own"), payload={"model": "x"})
    assert (state["assignedHub"], state["payload"]) == ("b", {"hello": [1]})
    assert service.hubs["b"].twins["own"].desired == {"rate": 7}
    (asked,) = webhook.asked
    assert asked["linkedHubs"] == ["a", "b"]
    assert asked["individualEnrollment"]["registrationId"] == "own"
    assert asked["deviceRuntimeContext"] == {"registrationId": "own", "symmetricKey": {}, "payload": {"model": "x"}}
    assert "primaryKey" not in json.dumps(asked)
    await service.assigned(claims("own"))
    assert webhook.asked[1]["deviceRuntimeContext"]["currentIotHubHostName"] == "b"


async def test_a_webhook_that_is_busy_is_asked_again(service: Service, webhook: Webhook) -> None:
    webhook.answer = lambda number: (200, {"iotHubHostName": "a"}) if number == 4 else (429 + number, "later")
    assert (await service.assigned(claims("own")))["assignedHub"] == "a"


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (500, "", 400_207),
        (404, "", 400_207),
        (302, "", 400_207),
        (200, "no json", 400_207),
        (200, "[" * 60_000, 400_207),
        (200, {}, 400_208),
        (200, {"iotHubHostName": "elsewhere"}, 400_208),
        (401, "", 400_209),
        (403, "", 400_209),
    ],
)
async def test_an_answer_that_is_no_choice_fails_the_registration(
    service: Service, webhook: Webhook, status: int, body: Any, code: int
) -> None:
    webhook.answer = lambda _: (status, body)
    state = await service.assigned(claims("own"))
    assert (state["status"], state["errorCode"]) == ("failed", code)
    assert len(webhook.asked) == (ALLOCATION_TRIES if status == 500 else 1)
    assert all(hub.puts == 0 for hub in service.hubs.values())


@pytest.mark.parametrize("url", ["http://192.0.2.1/choose", "ftp://127.0.0.1/x", "file:///etc/passwd", "choose"])
async def test_a_webhook_is_asked_by_https_or_on_this_machine(service: Service, webhook: Webhook, url: str) -> None:
    await enroll(service, url, "*")
    assert (await service.assigned(claims("own")))["errorCode"] == 400_207
    assert webhook.asked == []
