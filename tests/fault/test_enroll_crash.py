"""An enrolment whose process is killed at each of its writes: it happened whole or not at all, and no serial number is
lost or used twice.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

from sqlalchemy import Connection, func, select

from edgetrust.clock import ManualClock
from edgetrust.store import chained
from edgetrust.store.ca_tables import ca_audit, est_claims, est_passwords, issued_certificates, issued_names
from edgetrust.store.engine import Database
from support.ca import certificate_authority

CHILD = """
    import asyncio, os, signal, sys
    from pathlib import Path
    from edgetrust.ca.authority import CertificateAuthority, Issued
    from edgetrust.ca.enroll import Enroller, Peer
    from edgetrust.ca.policy import CredentialKind, Rule
    from edgetrust.ca.settings import CaSettings
    from edgetrust.clock import ManualClock
    from edgetrust.pki.keys import SecretText
    from edgetrust.store.engine import Database

    directory, url, at = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    rule = Rule(CredentialKind.PASSWORD, once=True)

    async def main():
        database = Database(url)
        settings = CaSettings(directory, url, rules=(rule,))
        authority = await CertificateAuthority.open(settings, database, ManualClock())
        written = 0

        def follow(statement):  # called by SQLite before each statement, whoever gave it
            nonlocal written
            if at == str(written) or (at == "commit" and written and statement == "COMMIT"):
                os.kill(os.getpid(), signal.SIGKILL)
            written += statement.split()[0] in ("INSERT", "UPDATE", "DELETE")

        def watch(connection):
            connection.connection.driver_connection.set_trace_callback(follow)

        await database.write(watch)  # the connection that writes is kept
        written = 0
        peer = Peer("192.0.2.1", basic=("dev1", SecretText("right")))
        der = (directory / "dev1.der").read_bytes()
        outcome = await Enroller(authority).enroll(authority.named("edge"), der, peer, "simpleenroll")
        if at == "answer":
            os.kill(os.getpid(), signal.SIGKILL)
        assert isinstance(outcome, Issued), outcome
        print(outcome.row.serial, written)
        await database.close()

    asyncio.run(main())
"""


def state(connection: Connection) -> tuple[int, ...]:
    tables = (issued_certificates, issued_names, est_claims, ca_audit)
    counts = [connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables]
    uses = connection.execute(select(est_passwords.c.uses_left)).scalar_one()
    return (*counts, uses)


async def test_a_killed_enrolment_happened_whole_or_not_at_all(tmp_path: Path) -> None:
    from support.ca import csr, san

    url = f"sqlite:///{tmp_path / 'ca.sqlite'}"
    async with certificate_authority(tmp_path, url) as ca:
        await ca.password("dev1", uses=1)
        before = await ca.authority.database.read(state)
    (tmp_path / "dev1.der").write_bytes(csr("dev1", extensions=[san("dev1")]))
    program = tmp_path / "child.py"
    program.write_text(dedent(CHILD))

    def run(at: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(program), str(tmp_path), url, at]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    async def found() -> tuple[int, ...]:
        database = Database(url)
        now = await database.read(state)
        assert (await database.read(chained.verify)).intact
        await database.close()
        return now

    writes = 5  # claim, use of the password, certificate, its names, audit record
    for at in (*map(str, range(1, writes + 1)), "commit"):
        assert run(at).returncode == -9, at
        assert await found() == before, at
    assert run("answer").returncode == -9
    issued, names, claims, records, uses = before
    after = (issued + 1, names + 1, claims + 1, records + 1, uses - 1)
    assert await found() == after, "the commit counts, whether or not the answer arrived"
    again = run("never")
    assert again.returncode == 0, again.stderr
    serial, counted = again.stdout.split()
    assert int(counted) == 3, "the claim and the one use were taken before, for this key"
    database = Database(url)
    serials = await database.read(
        lambda connection: connection.execute(select(issued_certificates.c.serial)).scalars().all()
    )
    await database.close()
    assert serial in serials
    assert len(set(serials)) == len(serials) == issued + 2
    assert ManualClock().now().year == 2026
