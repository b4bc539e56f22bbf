"""A gateway connects as a device below it: the device's messages flow, and whatever it rests on can end it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgetrust.protocol.mqtt.packets import Publish, Suback, Subscribe
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import Missing, MissingWhy
from edgetrust.trust.verdict import Reason
from support.decisions import DEVICE_KEYS, HUB, KEYS, registered
from support.fakes import Peer, Table, good_token

LEAF, GATEWAY, EDGE_HUB = Identity(HUB, "leaf"), Identity(HUB, "gw"), Identity(HUB, "gw", "$edgeHub")
SCOPE = "ms-azure-iot-edge://gw-1"


@pytest.fixture
def table() -> Table:
    table = Table()
    table.registry.put(registered(KEYS, EDGE_HUB))
    table.registry.put(registered(KEYS, GATEWAY, edge=True, scope=SCOPE))
    table.registry.put(registered(DEVICE_KEYS, LEAF, scope=SCOPE, parents=(SCOPE,)))
    return table


def user_name(chain: str, who: str = "leaf") -> str:
    return f"{HUB}/{who}/?api-version=2021-04-12&auth-chain={chain}"


def speaks(table: Table, chain: str = "leaf;gw", who: str = "leaf", password: str = "") -> Peer:
    return table.connects(who, password or good_token("gw/$edgeHub"), user_name=user_name(chain, who))


def last_refusal(table: Table) -> tuple[str, Reason | None]:
    entry = table.auditor.refusals[-1]
    return entry.identity, entry.reason


def test_messages_flow_under_the_name_of_the_device(table: Table) -> None:
    peer = speaks(table)
    assert peer.code == 0
    table.commands.put("leaf", b"open")
    peer.hears()
    peer.says(Publish("devices/leaf/messages/events/", b"21"))
    assert [(each.device, each.body) for each in table.endpoint.messages] == [("leaf", b"21")]
    peer.says(Subscribe(1, (("devices/leaf/messages/devicebound/#", 0),)))
    suback, command = peer.hears()
    assert suback == Suback(1, (0,))
    assert isinstance(command, Publish)
    assert command.payload == b"open"


def test_what_a_gateway_hands_on_is_told_from_what_a_client_sends(table: Table) -> None:
    table.registry.below = {("leaf", "gw")}
    speaks(table).says(Publish("devices/leaf/messages/events/", b"1"))
    table.connects("leaf", good_token("leaf", DEVICE_KEYS.primary.reveal())).says(
        Publish("devices/leaf/messages/events/", b"2")
    )
    gateway = table.connects("gw/$edgeHub", good_token("gw/$edgeHub"))
    gateway.says(Publish("devices/leaf/messages/events/", b"3", 1, dup=True, packet_id=1))
    assert [(one.body, type(one).__name__, one.properties) for one in table.endpoint.messages] == [
        (b"1", "Forwarded", ""),
        (b"2", "Message", ""),
        (b"3", "Forwarded", "mqtt-dup=true"),
    ]


def test_it_speaks_for_nobody_else(table: Table) -> None:
    peer = speaks(table)
    peer.says(Publish("devices/gw/messages/events/", b"x"))
    assert peer.closed
    assert last_refusal(table) == ("leaf", Reason.NOT_AUTHORIZED)


@pytest.mark.parametrize("chain", ["leaf", "leaf;other", "gw;leaf", "other;gw"])
def test_chains_that_do_not_lead_to_the_gateway(table: Table, chain: str) -> None:
    peer = speaks(table, chain)
    assert peer.code == 5
    assert table.endpoint.messages == []


def test_a_chain_of_itself_twice_is_no_chain(table: Table) -> None:
    """Its own module of that name does not speak for it: whoever claims an identity alone must prove that one."""
    table.registry.put(registered(KEYS, Identity(HUB, "leaf", "$edgeHub")))
    assert speaks(table, "leaf;leaf", password=good_token("leaf/$edgeHub")).code == 5
    assert last_refusal(table) == ("leaf", Reason.SAS_OTHER_RESOURCE)


def test_a_chain_of_somebody_else(table: Table) -> None:
    assert speaks(table, "other;gw").code == 5
    assert last_refusal(table) == ("leaf", Reason.AUTH_CHAIN_MISMATCH)


def test_the_gateway_must_prove_itself(table: Table) -> None:
    assert speaks(table, password=good_token("gw/$edgeHub", b"x" * 32)).code == 5
    assert last_refusal(table)[1] == Reason.SAS_SIGNATURE_MISMATCH
    assert speaks(table, password=good_token("leaf")).code == 5  # a leaf's own token does not speak for a gateway
    assert last_refusal(table)[1] == Reason.SAS_OTHER_RESOURCE


def test_a_device_of_another_gateway(table: Table) -> None:
    table.registry.put(registered(KEYS, LEAF, parents=("ms-azure-iot-edge://elsewhere-1",)))
    assert speaks(table).code == 5
    assert last_refusal(table) == ("leaf", Reason.NOT_A_CHILD)


def test_a_module_of_the_device(table: Table) -> None:
    table.registry.put(registered(KEYS, Identity(HUB, "leaf", "m")))
    for chain in ("leaf/m;leaf;gw", "leaf;gw"):
        assert speaks(table, chain, "leaf/m").code == 0


@pytest.mark.parametrize("who", [LEAF, GATEWAY, EDGE_HUB])
def test_whatever_it_rests_on_ends_it(table: Table, who: Identity) -> None:
    peer = speaks(table)
    table.registry.put(replace(table.registry.registrations[who], enabled=False))
    (session,) = table.sessions.concerned(who)
    table.tasks.start(_again(table, session))
    table.run()
    assert peer.closed == f"decided again: {Reason.DISABLED}"
    peer.goes(peer.closed)
    assert table.sessions.concerned(who) == []


async def _again(table: Table, session: object) -> None:
    await table.door.decide_again(session)  # type: ignore[arg-type]


def test_not_knowing_the_chain_now_ends_nothing(table: Table) -> None:
    peer = speaks(table)
    table.registry.registrations[GATEWAY] = Missing(MissingWhy.UNAVAILABLE)  # type: ignore[assignment]
    (session,) = table.sessions.concerned(GATEWAY)
    table.tasks.start(_again(table, session))
    table.run()
    assert not peer.closed
