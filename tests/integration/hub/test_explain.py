"""Explain: the decision of a connection, for an operator, without effect."""

from __future__ import annotations

import pytest

from support.hub import Answer, World, devices_pki


async def ask(world: World, **question: object) -> Answer:
    return await world.ask("POST", "/edgetrust/explain", question, version=None)


async def test_a_good_token(world: World) -> None:
    await world.create("d1")
    answer = (await ask(world, device="d1", token=world.token("d1"))).json
    assert (answer["accepted"], answer["reason"], answer["identity"]) == (True, "sas-primary-key", "d1")
    assert [check["passed"] for check in answer["checks"]] == [True] * len(answer["checks"])
    assert answer["validUntil"] > world.clock.now().isoformat()


async def test_refused_with_every_check_and_the_fix(world: World) -> None:
    await world.create("d1")
    answer = (await ask(world, device="d1", token=world.token("d1", -3600))).json
    assert (answer["accepted"], answer["reason"]) == (False, "sas-expired")
    assert [check["passed"] for check in answer["checks"]][-1] is False
    assert answer["means"]
    assert answer["confirm"]
    assert "token" in answer["fix"]
    assert "sig=" not in str(answer).replace("sig=(cut out)", "")


async def test_certificates(world: World) -> None:
    pki = devices_pki()
    holder = pki.device("d1")
    await world.by_thumbprint("d1", holder)
    good = (await ask(world, device="d1", certificates=holder.chain.pem())).json
    assert (good["accepted"], good["reason"]) == (True, "thumbprint-primary")
    other = (await ask(world, device="d1", certificates=pki.device("x").chain.pem())).json
    assert other["reason"] == "thumbprint-mismatch"
    await world.create("c1", authentication={"type": "certificateAuthority"})
    chain = pki.device("c1").chain.pem()
    assert (await ask(world, device="c1", certificates=chain)).json["reason"] == "chain-intermediate-missing"
    await world.trust(pki.root)
    assert (await ask(world, device="c1", certificates=chain)).json["reason"] == "certificate-authority"


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ({"device": "nobody"}, "unknown-identity"),
        ({"device": "d1", "module": "m"}, "unknown-identity"),
        ({"device": "d1"}, "no-credential"),
        ({"device": "d1", "token": "hunter2"}, "sas-malformed"),
    ],
)
async def test_what_is_missing(world: World, question: dict[str, str], reason: str) -> None:
    await world.create("d1")
    assert (await ask(world, **question)).json["reason"] == reason


@pytest.mark.parametrize(
    "question", [{}, {"device": ""}, {"device": "a b"}, {"device": "d1", "certificates": "x"}, {"device": "d1", "x": 1}]
)
async def test_a_question_that_is_none(world: World, question: dict[str, object]) -> None:
    answer = await ask(world, **question)
    assert (answer.status, answer.error) == (400, "GenericBadRequest")


async def test_nothing_is_recorded_and_only_services_may_ask(world: World) -> None:
    await world.create("d1")
    await ask(world, device="d1", token="x")
    assert await world.refusals() == []
    refused = await world.ask("POST", "/edgetrust/explain", {"device": "d1"}, token=world.token("d1"), version=None)
    assert refused.status == 401


async def test_refusals_of_one_identity(world: World) -> None:
    for device in ("d1", "d2"):
        await world.create(device)
        await world.ask("POST", f"/devices/{device}/messages/events", b"x", token=world.token(device, -3600))
    answer = await world.ask("GET", "/edgetrust/refusals?identity=d2", version=None)
    assert [refusal["identity"] for refusal in answer.json["refusals"]] == ["d2"]
