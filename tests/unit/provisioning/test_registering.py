"""Registering, from the decision to the hub: what a device is told, what its hub holds, and what a crash leaves."""

from __future__ import annotations

import asyncio
import json

from edgetrust.limits import DPS_REGISTERS_PER_ID, DPS_REGISTERS_SECONDS
from edgetrust.pki.chain import Thumbprint
from edgetrust.protocol.dps.errors import DpsError
from edgetrust.protocol.sas import derive_key
from edgetrust.provisioning.allocation import Choice
from edgetrust.store.engine import Database
from edgetrust.trust.credential import NoCredential
from edgetrust.trust.registration import SasKeys, Thumbprints
from support.enrollments import PRIMARY, SECONDARY, certificates, group, individual, keys, references
from support.pki import NOW, Pki
from support.provisioning import AWAY, FakeHub, Service, claims, refused, serving, shown, signed

PKI = Pki(NOW, 1, root_name="Fleet Root")
TWO = {"a": 1, "b": 1}


async def by_ca(service: Service, **fields: object) -> None:
    await service.certificates.put("root", PKI.root.certificate, verified=True)
    await service.enroll(group("fleet", references("root"), **fields))


# What the hub gets --------------------------------------------------------------------------------------------------


async def test_a_device_with_its_own_keys_has_them_at_the_hub(service: Service) -> None:
    twin = {"tags": {"site": "north"}, "properties": {"desired": {"rate": 5}}}
    body = individual("Reg1", keys(), deviceId="pump-7", capabilities={"iotEdge": True}, initialTwin=twin)
    await service.enroll(body)
    state = await service.assigned(claims("reg1"))
    assert (state["assignedHub"], state["deviceId"], state["substatus"]) == ("hub", "pump-7", "initialAssignment")
    assert state["symmetricKey"] == {}
    made = service.hubs["hub"].devices["pump-7"]
    assert isinstance(made.authentication, SasKeys)
    held = (made.authentication.primary.reveal(), made.authentication.secondary.reveal())
    assert (held, made.edge) == ((PRIMARY, SECONDARY), True)
    assert made.twin is not None
    assert (made.twin.tags, made.twin.desired) == ({"site": "north"}, {"rate": 5})


async def test_a_device_of_a_group_has_derived_keys_at_the_hub(service: Service) -> None:
    await service.enroll(group("fleet", keys()))
    state = await service.assigned(claims("Dev-1", signed("Dev-1", derive_key(SECONDARY, "Dev-1"))))
    assert (state["deviceId"], state["symmetricKey"]) == ("Dev-1", {"enrollmentGroupId": "fleet"})
    made = service.hubs["hub"].devices["Dev-1"].authentication
    assert isinstance(made, SasKeys)
    assert made.primary.reveal() == derive_key(PRIMARY, "Dev-1")
    assert made.secondary.reveal() == derive_key(SECONDARY, "Dev-1")


async def test_a_device_with_a_certificate_has_its_thumbprint_twice_and_a_renewed_one_replaces_it(
    service: Service,
) -> None:
    await by_ca(service)
    for serial in (1, 2):
        device = PKI.device("dev-1", serial=serial)
        state = await service.assigned(claims("dev-1", shown(*device.chain.certificates)))
        wanted = Thumbprint.of(device.certificate)
        assert service.hubs["hub"].devices["dev-1"].authentication == Thumbprints(wanted, wanted)
        info = state["x509"]["certificateInfo"]
        assert info["sha1Thumbprint"] == Thumbprint.of(device.certificate, "sha1").hex()
        assert info["sha256Thumbprint"] == wanted.hex()
        assert state["x509"]["enrollmentGroupId"] == "fleet"
        assert state["x509"]["signingCertificateInfo"]["subjectName"] == "CN=Fleet Root"


async def test_a_device_keeps_its_name_however_it_spells_its_identifier(service: Service) -> None:
    await by_ca(service)
    chain = shown(*PKI.device("dev-1").chain.certificates)
    assert (await service.assigned(claims("dev-1", chain)))["deviceId"] == "dev-1"
    assert (await service.assigned(claims("DEV-1", chain)))["deviceId"] == "dev-1"
    assert list(service.hubs["hub"].devices) == ["dev-1"]


# What a device is told ----------------------------------------------------------------------------------------------


async def test_the_real_numbers(service: Service) -> None:
    await by_ca(service)
    await service.enroll(individual("own", keys()))
    by_key = await refused(service.register(claims("own", signed("own", b"x" * 32))))
    nobody = await refused(service.register(claims("nobody", signed("nobody", b"x" * 32))))
    assert (by_key.code, by_key.message) == (nobody.code, nobody.message) == (401_000, "Unauthorized")
    alone = await refused(service.register(claims("dev-1", shown(PKI.device("dev-1").certificate))))
    assert (alone.code, alone.message) == (401_002, "Invalid certificate.")
    assert (await refused(service.register(claims("own", NoCredential())))).code == 401_000
    assert (await refused(service.register(claims("own", scope="0neOTHER")))).code == 401_000
    assert service.records.refusals == [
        *("sas-signature-mismatch", "enrollment-unknown", "chain-intermediate-missing", "no-credential"),
        "id-scope-unknown",
    ]


async def test_names_that_cannot_be(service: Service) -> None:
    await service.enroll(individual("own", keys()))
    for name in ("", "a" * 129, "own.", "o/wn", "ö"):
        assert (await refused(service.register(claims(name, NoCredential())))).reason == "registration-id-malformed"
    assert (await refused(service.register(claims("own"), registration_id="own2"))).reason == "registration-id-differs"
    await service.assigned(claims("own"), registration_id="OWN")


async def test_a_disabled_enrollment_says_so_to_who_proves_itself(service: Service) -> None:
    await service.enroll(individual("own", keys(), provisioningStatus="disabled"))
    answer = await service.register(claims("own"))
    assert answer.status == 200
    assert json.loads(answer.body) == {
        "operationId": "",
        "status": "disabled",
        "registrationState": {"registrationId": "own", "status": "disabled"},
    }
    assert (await service.registering.lookup(claims("own"))).status == "disabled"
    assert service.hubs["hub"].puts == 0


async def test_questions_about_operations(service: Service) -> None:
    await service.enroll(individual("own", keys()), individual("other", keys()))
    begun = await service.register(claims("own"))
    assert json.loads(begun.body) == {"operationId": begun.operation_id, "status": "assigning"}
    assert begun.retry_after
    await service.end_of(claims("own"), begun)
    for operation in ("", "5.0.0", begun.operation_id.upper()):
        assert (await refused(service.registering.poll(claims("own"), operation))).status == 404
    assert (await refused(service.registering.poll(claims("other"), begun.operation_id))).status == 404
    assert (await refused(service.registering.lookup(claims("other")))).code == 404_202
    assert (await service.registering.lookup(claims("own"))).assigned_hub == "hub"
    service.clock.advance(1000)  # the token has expired, and serves to ask
    assert (await service.registering.poll(claims("own"), begun.operation_id)).status == 200
    assert (await refused(service.register(claims("own")))).code == 401_000
    service.clock.advance(2000)
    assert (await refused(service.registering.poll(claims("own"), begun.operation_id))).code == 401_000


# Many at once -------------------------------------------------------------------------------------------------------


async def test_a_flood_of_one_identifier_costs_one_assignment(service: Service) -> None:
    hub = service.hubs["hub"]
    hub.gate = asyncio.Event()
    await service.enroll(individual("own", keys()), individual("other", keys()))
    calls = [service.register(claims("own")) for _ in range(3 * DPS_REGISTERS_PER_ID)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    told = [answer for answer in answers if not isinstance(answer, DpsError)]
    assert len(told) == DPS_REGISTERS_PER_ID
    assert len({answer.operation_id for answer in told}) == 1  # type: ignore[union-attr]
    late = next(answer for answer in answers if isinstance(answer, DpsError))
    assert (late.code, late.reason) == (429_001, "registration-throttled")
    assert late.retry_after is not None
    assert late.retry_after <= DPS_REGISTERS_SECONDS
    hub.gate.set()
    await service.assigned(claims("other"))
    await service.end_of(claims("own"), told[0])  # type: ignore[arg-type]
    assert hub.puts == 2
    service.clock.advance(DPS_REGISTERS_SECONDS + 1)
    await service.assigned(claims("own"))


async def test_many_devices_at_once_are_each_assigned_once(service: Service) -> None:
    await service.enroll(group("fleet", keys()))
    names = [f"dev-{number}" for number in range(50)]
    who = [claims(name, signed(name, derive_key(PRIMARY, name))) for name in names]
    states = await asyncio.gather(*(service.assigned(claim) for claim in who))
    assert {state["deviceId"] for state in states} == set(names) == set(service.hubs["hub"].devices)
    assert service.hubs["hub"].puts == 50


# What goes wrong on the way -----------------------------------------------------------------------------------------


async def test_an_enrollment_that_is_deleted_meanwhile_leaves_nothing(service: Service) -> None:
    hub = service.hubs["hub"]
    hub.gate = asyncio.Event()
    await service.enroll(group("fleet", keys()))
    who = claims("dev-1", signed("dev-1", derive_key(PRIMARY, "dev-1")))
    begun = await service.register(who)
    await service.enrollments.delete("group", "fleet", None)
    hub.gate.set()
    assert (await refused(service.registering.poll(who, begun.operation_id))).code == 401_000
    assert service.records.refusals == ["enrollment-unknown"]
    await service.tasks.close()
    assert await service.provisioned.find("dev-1") is None


async def test_a_hub_that_is_away_holds_the_device_up_until_it_is_back(service: Service) -> None:
    hub = service.hubs["hub"]
    hub.fault = AWAY
    await service.enroll(individual("own", keys()))
    begun = await service.register(claims("own"))
    for _ in range(3):
        await asyncio.sleep(0.01)
        assert (await service.registering.poll(claims("own"), begun.operation_id)).status == 202
    hub.fault = None
    assert (await service.end_of(claims("own"), begun))["status"] == "assigned"


async def test_a_hub_that_refuses_fails_the_registration_with_its_reason(service: Service) -> None:
    service.hubs["hub"].fault = DpsError(400_004, "no such module", reason="argument-invalid")
    await service.enroll(individual("own", keys()))
    state = await service.assigned(claims("own"))
    assert (state["status"], state["errorCode"], state["errorMessage"]) == ("failed", 400_004, "no such module")
    service.hubs["hub"].fault = None
    assert (await service.assigned(claims("own")))["status"] == "assigned"


async def test_what_a_killed_process_began_is_ended_by_the_next_question(service: Service) -> None:
    hub = service.hubs["hub"]
    hub.gate = asyncio.Event()
    await service.enroll(individual("own", keys()))
    begun = await service.register(claims("own"))
    await service.restart()  # before the hub heard of it
    hub.gate.set()
    assert (await service.end_of(claims("own"), begun))["status"] == "assigned"
    assert list(hub.devices) == ["own"]


async def test_a_process_killed_between_hub_and_record_is_healed_by_the_next_registration(
    memory: Database,
) -> None:
    """The device was told to hub a and not written down as assigned; now b is the one to choose."""
    async with serving(memory, {"a": FakeHub(), "b": FakeHub()}, Choice({"a": 1})) as service:
        await service.enroll(individual("own", keys()))
        hub_a, hub_b = service.hubs["a"], service.hubs["b"]
        hub_a.gate = asyncio.Event()
        await service.register(claims("own"))
        await service.restart(Choice({"b": 1}))
        await hub_a_got(hub_a)
        state = await service.assigned(claims("own"))
        assert (state["assignedHub"], list(hub_a.devices), list(hub_b.devices)) == ("b", [], ["own"])


async def hub_a_got(hub: FakeHub) -> None:
    """What the killed process had sent arrives after all."""
    from edgetrust.pki.keys import SecretBytes
    from edgetrust.provisioning.hubs import HubDevice

    assert hub.gate is not None
    hub.gate.set()
    await hub.put(HubDevice("own", SasKeys(SecretBytes(PRIMARY), SecretBytes(SECONDARY))))


async def test_several_unfinished_assignments_are_all_cleared_away(memory: Database) -> None:
    names = ("a", "b", "c")
    async with serving(memory, {name: FakeHub() for name in names}, Choice({"a": 1})) as service:
        await service.enroll(individual("own", keys()))
        for name in ("a", "b"):
            service.hubs[name].gate = asyncio.Event()
            await service.register(claims("own"))
            await service.restart(Choice({"b" if name == "a" else "c": 1}))
            await hub_a_got(service.hubs[name])
        assert (await service.assigned(claims("own")))["assignedHub"] == "c"
        assert [list(service.hubs[name].devices) for name in names] == [[], [], ["own"]]


# Registering again --------------------------------------------------------------------------------------------------


async def moved(service: Service, **fields: object) -> dict[str, object]:
    """Registered at a with a twin that was changed there, then again when only b is left to choose."""
    twin = {"tags": {}, "properties": {"desired": {"rate": 5}}}
    await service.enroll(individual("own", keys(), initialTwin=twin, **fields))
    await service.assigned(claims("own"))
    from edgetrust.provisioning.hubs import HubTwin

    service.hubs["a"].twins["own"] = HubTwin({"seen": True}, {"rate": 9})
    await service.restart(Choice({"b": 1}))
    return await service.assigned(claims("own"))


async def test_data_moves_with_the_device(memory: Database) -> None:
    async with serving(memory, {name: FakeHub() for name in TWO}, Choice({"a": 1})) as service:
        state = await moved(service)
        assert (state["assignedHub"], state["substatus"]) == ("b", "deviceDataMigrated")
        assert service.hubs["a"].devices == {}
        twin = service.hubs["b"].twins["own"]
        assert (twin.tags, twin.desired) == ({"seen": True}, {"rate": 9})


async def test_data_is_reset(memory: Database) -> None:
    policy = {"updateHubAssignment": True, "migrateDeviceData": False}
    async with serving(memory, {name: FakeHub() for name in TWO}, Choice({"a": 1})) as service:
        state = await moved(service, reprovisionPolicy=policy)
        assert (state["assignedHub"], state["substatus"]) == ("b", "deviceDataReset")
        assert service.hubs["b"].twins["own"].desired == {"rate": 5}
        service.hubs["b"].twins.clear()
        await service.assigned(claims("own"))
        assert service.hubs["b"].twins["own"].desired == {"rate": 5}


async def test_a_device_never_moves(memory: Database) -> None:
    policy = {"updateHubAssignment": False, "migrateDeviceData": False}
    async with serving(memory, {name: FakeHub() for name in TWO}, Choice({"a": 1})) as service:
        state = await moved(service, reprovisionPolicy=policy)
        assert (state["assignedHub"], list(service.hubs["b"].devices)) == ("a", [])


async def test_a_device_does_not_wait_for_the_hub_it_leaves(memory: Database) -> None:
    async with serving(memory, {name: FakeHub() for name in TWO}, Choice({"a": 1})) as service:
        await service.enroll(individual("own", keys()))
        await service.assigned(claims("own"))
        service.hubs["a"].fault = AWAY
        await service.restart(Choice({"b": 1}))
        assert (await service.assigned(claims("own")))["assignedHub"] == "b"
        assert list(service.hubs["a"].devices) == ["own"]
        service.hubs["a"].fault = None
        await service.assigned(claims("own"))  # the next registration clears it away
        assert (list(service.hubs["a"].devices), list(service.hubs["b"].devices)) == ([], ["own"])


async def test_a_hub_that_is_not_linked(service: Service) -> None:
    body = individual("own", keys(), allocationPolicy="static", iotHubHostName="elsewhere")
    await service.enroll(body)
    problem = await refused(service.register(claims("own")))
    assert (problem.code, problem.reason) == (400_208, "allocation-without-hub")
    assert await service.provisioned.find("own") is None


async def test_a_certificate_decides_for_the_enrollment_that_has_it(service: Service) -> None:
    device = PKI.device("dev-1")
    await by_ca(service)
    await service.enroll(individual("dev-1", certificates("clientCertificates", device.certificate), deviceId="mine"))
    state = await service.assigned(claims("dev-1", shown(*device.chain.certificates)))
    assert state["deviceId"] == "mine"
    assert "enrollmentGroupId" not in state["x509"]
