"""Tokens that are odd, wrong or not even tokens, over MQTT and over HTTPS: what counts, what is refused and why."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
import pytest_asyncio

from edgetrust.hub.pki import HubPki
from support.hub import World, running
from support.raw_mqtt import Raw

DEVICE = "D.1%a"  # upper case, and a percent sign: what encodings are about
FAR = "4000000000"
GOOD = f"localhost%2Fdevices%2F{quote(DEVICE, safe='')}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(tmp_path_factory: pytest.TempPathFactory, hub_pki: HubPki) -> AsyncIterator[World]:
    async with running(tmp_path_factory.mktemp("hub"), hub_pki) as world:
        await world.create(DEVICE)
        await world.create("d2")
        yield world


def token(world: World, resource: str = GOOD, expiry: str | None = FAR, key: str | None = None, more: str = "") -> str:
    """Signed as it stands, whatever it is; without `se` when `expiry` is None."""
    secret = base64.b64decode(world.keys[DEVICE] if key is None else key)
    digest = hmac.new(secret, f"{resource}\n{expiry or ''}".encode(), hashlib.sha256).digest()
    end = "" if expiry is None else f"&se={expiry}"
    return f"SharedAccessSignature sr={resource}&sig={quote(base64.b64encode(digest), safe='')}{end}{more}"


async def both(world: World, secret: str) -> tuple[bool, int]:
    """Whether MQTT takes it, and the status over HTTPS."""
    try:
        raw = await Raw.connect(world.mqtt_port, world.root, DEVICE, secret)
        await raw.close()
        accepted = True
    except ConnectionError:
        accepted = False
    path = f"/devices/{quote(DEVICE, safe='')}/messages/events"
    return accepted, (await world.ask("POST", path, b"x", token=secret)).status


@pytest.mark.parametrize(
    ("resource", "expiry", "reason"),
    [
        (GOOD, None, "sas-malformed"),
        (GOOD, "", "sas-malformed"),
        (GOOD, "-1", "sas-malformed"),
        (GOOD, "-99999999999999999999", "sas-malformed"),
        (GOOD, "4000000000.5", "sas-malformed"),
        (GOOD, "4e9", "sas-malformed"),
        (GOOD, "0x7fffffff", "sas-malformed"),
        (GOOD, "+4000000000", "sas-malformed"),
        (GOOD, "\u0664000000000", "sas-malformed"),
        (GOOD, "NaN", "sas-malformed"),
        (GOOD, "9" * 400, "sas-malformed"),
        (GOOD, "0", "sas-expired"),
        (GOOD, "1", "sas-expired"),
        ("localhost%2Fdevices%2Fd2", FAR, "sas-other-resource"),
        ("localhost%2Fdevices", FAR, "sas-other-resource"),
        (f"localhost%2Fdevice%2F{DEVICE}", FAR, "sas-other-resource"),
        (f"localhost%2Fdevices%2F{DEVICE[:-1]}", FAR, "sas-other-resource"),
        (f"{GOOD}%2Fmodules", FAR, "sas-other-resource"),
        (f"{GOOD}%2Fmodules%2Fm", FAR, "sas-other-resource"),
        (f"{GOOD}%2F%2F", FAR, "sas-other-resource"),
        (f"xlocalhost%2Fdevices%2F{DEVICE}", FAR, "sas-other-resource"),
        (f"localhost.evil%2Fdevices%2F{DEVICE}", FAR, "sas-other-resource"),
        (f"%2Flocalhost%2Fdevices%2F{DEVICE}", FAR, "sas-other-resource"),
        ("*", FAR, "sas-other-resource"),
        ("..%2F..", FAR, "sas-other-resource"),
        (quote(quote(GOOD)), FAR, "sas-other-resource"),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_refused(hub: World, resource: str, expiry: str | None, reason: str) -> None:
    assert await both(hub, token(hub, resource, expiry)) == (False, 401)
    newest = (await hub.refusals())[:2]
    assert [refusal["reason"] for refusal in newest] == [reason, reason]
    assert {refusal["identity"] for refusal in newest} == {DEVICE}
    good = await hub.ask("POST", "/devices/d2/messages/events", b"x", token=hub.token("d2"))
    assert good.status == 204


@pytest.mark.parametrize(
    "resource",
    [
        GOOD,
        GOOD.lower(),  # as the edge runtime's identity service sends it
        GOOD.upper().replace("LOCALHOST", "LocalHost"),
        f"localhost%3A8443%2Fdevices%2F{quote(DEVICE, safe='')}",
        f"localhost/devices/{quote(DEVICE, safe='')}",
        f"localhost%2Fdevices%2F{quote(quote(DEVICE, safe=''), safe='')}",  # as the edge's builders do
        f"{GOOD}%2F",
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_spellings_of_the_same(hub: World, resource: str) -> None:
    assert await both(hub, token(hub, resource)) == (True, 204)


@pytest.mark.asyncio(loop_scope="module")
async def test_an_expiry_far_beyond_every_calendar(hub: World) -> None:
    assert await both(hub, token(hub, expiry="999999999999")) == (True, 204)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace("sig=", "sig=AA"), "sas-malformed"),
        (lambda text: text.partition("&sig=")[0] + "&se=" + FAR, "sas-malformed"),
        (lambda text: text.replace("SharedAccessSignature ", "SharedAccessSignature"), "sas-malformed"),
        (lambda text: text.replace("SharedAccessSignature", "Bearer"), "sas-malformed"),
        (lambda text: text + "&se=1", "sas-malformed"),
        (lambda text: text + "&skn=iothubowner", "sas-signature-mismatch"),
        (lambda text: text + "&skn=nobody", "sas-unknown-policy"),
        (lambda text: text.replace("se=4", "se=5"), "sas-signature-mismatch"),
        (lambda _text: "x" * 4_000, "sas-malformed"),
        (lambda _text: "SharedAccessSignature " + "&".join(["a=b"] * 500), "sas-malformed"),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_broken(hub: World, change: object, reason: str) -> None:
    assert callable(change)
    assert await both(hub, change(token(hub))) == (False, 401)
    assert (await hub.refusals())[1]["reason"] == reason  # the newer one is of HTTPS, where a policy is a service's


@pytest.mark.asyncio(loop_scope="module")
async def test_a_key_of_another_device_or_in_another_form(hub: World) -> None:
    for key in (hub.keys["d2"], base64.b64encode(hub.keys[DEVICE].encode()).decode()):
        assert await both(hub, token(hub, key=key)) == (False, 401)
        assert (await hub.refusals())[0]["reason"] == "sas-signature-mismatch"
