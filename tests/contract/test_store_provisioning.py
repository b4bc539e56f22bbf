"""Enrollments and registrations, on every engine."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edgetrust.clock import ManualClock
from edgetrust.protocol.dps.bodies import RegistrationStatus, Substatus
from edgetrust.protocol.dps.enrollments import Enrollment, parse_enrollment
from edgetrust.protocol.dps.errors import DpsError
from edgetrust.store.certificates import CaCertificates
from edgetrust.store.dps_schema import dps_ca_certificates
from edgetrust.store.engine import Database
from edgetrust.store.enrollments import Enrollments, group_of_ca
from edgetrust.store.provisioned import Assignment, Beginning, Document, Provisioned, ProvisionedRecord
from edgetrust.store.records import RegistryError
from support.enrollments import certificates, group, individual, keys, references, text_of
from support.pki import NOW, Pki

PKI = Pki(NOW, 1)
A, B, C = (Assignment(name, "d-1") for name in "abc")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
async def enrollments(database: Database, clock: ManualClock) -> Enrollments:
    return await Enrollments.open(database, clock)


@pytest.fixture
def provisioned(database: Database, clock: ManualClock) -> Provisioned:
    return Provisioned(database, clock)


async def refused(call: Any, status: int, reason: str) -> None:
    with pytest.raises((DpsError, RegistryError)) as raised:
        await call
    assert (raised.value.status, raised.value.reason) == (status, reason)


def without_keys(name: str) -> Enrollment:
    return parse_enrollment({"registrationId": name, "attestation": {"type": "symmetricKey"}}, "individual")


async def test_an_enrollment_lives(enrollments: Enrollments) -> None:
    made = await enrollments.put(without_keys("Dev-1"), None)
    held = made.body.attestation.symmetric_key
    assert held is not None
    assert held.primary_key != held.secondary_key
    await refused(enrollments.put(without_keys("DEV-1"), None), 409, "enrollment-exists")
    changed = await enrollments.put(without_keys("dev-1"), f'"{made.etag}"')
    assert changed.body.attestation == made.body.attestation  # what is not said stays
    assert changed.etag != made.etag
    await refused(enrollments.put(without_keys("dev-1"), made.etag), 412, "precondition-failed")
    await refused(enrollments.put(without_keys("dev-2"), "*"), 404, "enrollment-not-found")
    await refused(enrollments.delete("individual", "dev-1", made.etag), 412, "precondition-failed")
    await enrollments.delete("individual", "DEV-1", changed.etag)
    await refused(enrollments.get("individual", "dev-1"), 404, "enrollment-not-found")
    again = await enrollments.put(without_keys("dev-1"), None)
    assert again.etag not in (made.etag, changed.etag)


async def test_pages_are_in_byte_order(enrollments: Enrollments) -> None:
    for name in ("b", "A", "a-1", "_", "C"):
        await enrollments.put(individual(f"{name}x", keys()), None)
    await enrollments.put(group("g", keys()), None)
    first = await enrollments.page("individual", "", 3)
    rest = await enrollments.page("individual", first[-1].body.name.lower(), 3)
    assert [one.body.name for one in (*first, *rest)] == ["_x", "a-1x", "Ax", "bx", "Cx"]


async def test_one_certificate_decides_for_one_enrollment(enrollments: Enrollments) -> None:
    ca = PKI.root.certificate
    await enrollments.put(group("g1", certificates("signingCertificates", ca)), None)
    second = group("g2", certificates("signingCertificates", ca))
    await refused(enrollments.put(second, None), 409, "certificate-enrolled-twice")
    await refused(enrollments.get("group", "g2"), 404, "enrollment-not-found")  # nothing half-written
    await enrollments.put(group("g1", certificates("signingCertificates", ca)), "*")
    await enrollments.delete("group", "g1", None)
    await enrollments.put(second, None)
    leaf = certificates("signingCertificates", PKI.device("x").certificate)
    await refused(enrollments.put(group("g3", leaf), None), 400, "certificate-not-a-ca")


async def test_a_ca_that_a_group_names_stays(database: Database, clock: ManualClock, enrollments: Enrollments) -> None:
    made = await CaCertificates.open(database, clock, enrollments, dps_ca_certificates, group_of_ca)
    await refused(enrollments.put(group("g", references("root")), None), 400, "ca-certificate-unknown")
    await made.put("root", PKI.root.certificate)
    assert [one.subject for one in enrollments.groups().unverified.anchors] == [PKI.root.certificate.subject]
    await enrollments.put(group("g", references("root")), None)
    await refused(made.delete("root", "*"), 409, "certificate-in-use")
    record = await made.put("root", PKI.root.certificate, verified=True, if_match="*")
    assert record.verified
    assert enrollments.groups().trusted.anchors == (PKI.root.certificate,)
    await enrollments.delete("group", "g", None)
    await made.delete("root", record.etag)


async def test_another_process_is_heard(database: Database, clock: ManualClock, enrollments: Enrollments) -> None:
    other = await Enrollments.open(database, clock)
    await other.put(group("g", keys()), None)
    assert enrollments.groups().symmetric == ()
    await enrollments.catch_up()
    assert [one.name for one in enrollments.groups().symmetric] == ["g"]


# Registrations ------------------------------------------------------------------------------------------------------


async def begin(provisioned: Provisioned, target: Assignment | None, operation: str) -> ProvisionedRecord:
    body = group("fleet", keys())
    document = Document({"x509": {}}, asked_payload={"a": "\u0000"}, asked_csr=b"\x00\xff")
    begun = await provisioned.begin(Beginning("Dev-1", body, operation, target, document))
    assert begun is not None
    return begun


async def finish(provisioned: Provisioned, target: Assignment, operation: str, *left: Assignment) -> bool:
    return await provisioned.finish("dev-1", operation, target, Substatus.INITIAL, Document({"x509": {}}), left)


async def test_a_registration_from_its_beginning_to_its_end(enrollments: Enrollments, provisioned: Provisioned) -> None:
    await enrollments.put(group("fleet", keys()), None)
    begun = await begin(provisioned, A, "1")
    assert (begun.state.status, begun.target, begun.assigned) == (RegistrationStatus.ASSIGNING, A, None)
    assert begun.state.assigned_hub is None
    assert (begun.document.asked_payload, begun.document.asked_csr) == ({"a": "\u0000"}, b"\x00\xff")
    assert await finish(provisioned, A, "1")
    done = await provisioned.get("DEV-1")
    assert (done.state.assigned_hub, done.state.device_id, done.state.substatus) == ("a", "d-1", Substatus.INITIAL)
    assert (done.holders, done.document.asked_csr) == ((A,), None)
    assert done.state.etag != begun.state.etag
    assert [one.state.registration_id for one in await provisioned.page("FLEET", "", 10)] == ["Dev-1"]
    await refused(provisioned.delete("dev-1", "x"), 412, "precondition-failed")
    await provisioned.delete("dev-1", done.state.etag)
    await refused(provisioned.get("dev-1"), 404, "registration-not-found")


async def test_where_a_device_may_be_is_never_forgotten(enrollments: Enrollments, provisioned: Provisioned) -> None:
    await enrollments.put(group("fleet", keys()), None)
    await begin(provisioned, A, "1")
    assert await finish(provisioned, A, "1")
    await begin(provisioned, B, "2")  # and killed
    assert set((await begin(provisioned, C, "3")).holders) == {A, B, C}
    assert not await finish(provisioned, B, "2")  # the earlier operation is over
    assert set((await begin(provisioned, C, "4")).holders) == {A, B, C}
    assert await finish(provisioned, C, "4", B)  # a could be told, b could not
    assert set((await provisioned.get("dev-1")).holders) == {C, B}
    assert await provisioned.fail("dev-1", "4", 400_207, "why" * 1000)
    failed = await provisioned.get("dev-1")
    assert (failed.state.status, failed.state.assigned_hub) == (RegistrationStatus.FAILED, None)
    assert set(failed.holders) == {C, B}


async def test_a_deleted_enrollment_takes_its_registrations_along(
    enrollments: Enrollments, provisioned: Provisioned
) -> None:
    body = group("fleet", keys())
    await enrollments.put(body, None)
    await begin(provisioned, None, "1")
    assert await provisioned.aim("dev-1", "1", A)
    await enrollments.delete("group", "fleet", None)
    assert await provisioned.find("dev-1") is None
    assert not await finish(provisioned, A, "1")
    assert await provisioned.begin(Beginning("dev-1", body, "2", A, Document())) is None
    assert await provisioned.find("dev-1") is None


async def test_many_at_once(enrollments: Enrollments) -> None:
    bodies = [individual(f"dev-{number}", keys(number.to_bytes(32, "big"))) for number in range(40)]
    made = await asyncio.gather(*(enrollments.put(body, None) for body in bodies))
    assert len({one.etag for one in made}) == 40
    found = await enrollments.individual("DEV-7")
    assert found is not None
    held = found.body.attestation.symmetric_key
    assert held is not None
    assert held.primary_key == text_of((7).to_bytes(32, "big"))
