"""What a certificate authority stores, on every engine: an enrolment, its claim, its audit chain, a rotation."""

from __future__ import annotations

import asyncio
from pathlib import Path

from edgetrust.ca import revocation, rotation
from edgetrust.ca.authority import Issued
from edgetrust.ca.forecast import calendar, in_use, measure, within
from edgetrust.ca.reasons import IssuanceReason as Why
from edgetrust.store import chained
from edgetrust.store.est import find_claim
from edgetrust.store.issuance import find_issued
from edgetrust.telemetry import METRICS
from support.ca import certificate_authority, csr, san


async def test_the_whole_life_of_certificates(database_url: str, tmp_path: Path) -> None:
    async with certificate_authority(tmp_path, database_url) as ca:
        batch = await ca.bootstrap("b")
        issued = await ca.issued(csr("b-1", extensions=[san("b-1")]), batch)
        await ca.refused(Why.ALREADY_CLAIMED, csr("b-1", label="other"), batch)
        outcomes = await asyncio.gather(*(ca.enroll(csr("b-2", label=f"race {n}"), batch) for n in range(4)))
        assert sum(isinstance(one, Issued) for one in outcomes) == 1
        read = ca.authority.database.read
        claim = await read(lambda connection: find_claim(connection, "b-1"))
        assert claim is not None
        assert claim.credential == "bootstrap:b"
        (row,) = await read(lambda connection: find_issued(connection, serial=issued.row.serial))
        assert row.certificate == issued.row.certificate
        await revocation.revoke(ca.authority, await revocation.plan(ca.authority, identity="b-1"), "superseded")
        (row,) = await ca.rows(revoked=True)
        assert (row.identity, row.revocation) == ("b-1", "superseded")
        assert len(await revocation.RevocationLists(ca.authority).crl("edge")) > 100
        await rotation.start(ca.authority, "edge")
        (turning,) = await rotation.rotations(ca.authority)
        assert turning.pairs == (("edge", "edge-2"),)
        outcome = await read(chained.verify)
        assert outcome.intact
        assert outcome.records > 8


async def test_what_ends_when(database_url: str, tmp_path: Path) -> None:
    async with certificate_authority(tmp_path, database_url) as ca:
        peer = await ca.password("dev1")
        await ca.issued(csr("dev1"), peer)
        ca.clock.advance(86_400)
        await ca.issued(csr("dev1"), peer)
        now, found = ca.clock.now(), await in_use(ca.authority)
        soon = within(found, now, 91)
        assert [(one.kind, one.name) for one in soon] == [("device", "dev1")], "whoever has renewed counts once"
        assert {one.name for one in found} == {"dev1", "<root>", "<edge>", "<devices>", "<servers>", "<bootstrap>"}
        measure(found, now)
        ends = METRICS.get_sample_value("edgetrust_certificate_first_not_after_seconds", {"kind": "device"})
        assert ends == soon[0].not_after.timestamp()
        assert METRICS.get_sample_value("edgetrust_certificates_in_use", {"kind": "issuing"}) == 3
        text = calendar(found, now)
        assert text.count("BEGIN:VEVENT") == len(found)
        assert max(map(len, text.encode().split(b"\r\n"))) <= 75
