"""A gateway's refusals, read from its store by the command line."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edgetrust.cli.main import run
from edgetrust.edge.files import Layout
from edgetrust.edge.status import last_refusals
from edgetrust.errors import UnavailableError
from edgetrust.store.audit import AuditTrail
from edgetrust.store.engine import Database
from edgetrust.trust.audit import record
from edgetrust.trust.identity import Identity
from edgetrust.trust.verdict import Check, Reason, Refused


async def refuse(layout: Layout) -> None:
    layout.own.mkdir(parents=True)
    database = Database(f"sqlite:///{layout.database}")
    await database.migrate()
    trail = AuditTrail(database)
    refused = Refused(Identity("hub", "d1"), Reason.NOT_A_CHILD, (Check("registered", False, "d1 is not below"),))
    trail.record(record(refused, at=datetime(2026, 6, 1, tzinfo=UTC), place="gateway-mqtt", peer="::1"))
    await trail.flush()
    await database.close()


def test_they_are_read_from_the_store(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    asyncio.run(refuse(layout))
    (entry,) = last_refusals(layout.database, 5)
    assert (entry["identity"], entry["reason"]) == ("d1", "not-a-child")


def test_where_no_gateway_has_run(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="no gateway has run here"):
        last_refusals(tmp_path / "gateway.sqlite", 5)
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(refuse(Layout(tmp_path)))
    assert run(["edge", "refusals", "--root", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["checks"][0]["detail"] == "d1 is not below"
    assert run(["edge", "refusals", "--root", str(tmp_path)]) == 0
    assert "FAILED  registered: d1 is not below" in capsys.readouterr().out
