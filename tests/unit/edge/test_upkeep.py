"""Certificates that are issued by configuration: obtained before serving, proven before promoted, renewed for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from aiohttp import web
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgetrust.clock import ManualClock
from edgetrust.edge.certd import GatewayCertificates
from edgetrust.edge.files import DEVICE_ID, EDGE_CA, EST_ID, LOCAL_CA, Layout
from edgetrust.edge.identityd import DeviceRefusedError
from edgetrust.edge.keyd import open_keys
from edgetrust.edge.settings import load_settings
from edgetrust.edge.upkeep import Upkeep
from edgetrust.errors import Error
from edgetrust.pki.chain import Chain, key_matches
from edgetrust.pki.keys import KeyAlgorithm, KeyHandle, public_der
from support.est_server import TestEst
from support.pki import openssl
from support.ports import free_port
from support.sockets import until

HOUR = timedelta(hours=1)


class Bench:
    """A gateway's certificates that come from an EST server, below a root."""

    def __init__(self, folder: Path, est: TestEst) -> None:
        self.folder, self.est = folder, est
        self.clock = ManualClock(datetime.now(UTC))
        self.layout = Layout(folder / "root")
        self.layout.make()
        self.keys = open_keys(self.layout)
        self.refuses: Exception | None = None
        self.shown: list[Chain] = []
        (folder / "root.pem").write_text(est.pki.bundle.pem())
        bootstrap = est.bootstrap()
        (folder / "b.pem").write_text(bootstrap.chain.pem())
        (folder / "b.key").write_bytes(bootstrap.key_pem())
        self.edge_ca = 'method = "est"'
        self.identity = 'method = "est"\nauto_renew = { rotate_key = true, threshold = "80%", retry = "4%" }'
        self.identity_renewal = 'rotate_key = true\nthreshold = "80%"\nretry = "4%"'

    def config(self) -> str:
        return f"""
hostname = "edgegateway.local"
[provisioning]
source = "manual"
iothub_hostname = "hub.example"
device_id = "EdgeGateway"
[provisioning.authentication]
method = "x509"
[provisioning.authentication.identity_cert]
{self.identity}
[cert_issuance.est]
trusted_certs = ["file://{self.folder}/root.pem"]
[cert_issuance.est.identity_auto_renew]
{self.identity_renewal}
[cert_issuance.est.auth]
bootstrap_identity_cert = "file://{self.folder}/b.pem"
bootstrap_identity_pk = "file://{self.folder}/b.key"
[cert_issuance.est.urls]
default = "{self.est.url}"
[edge_ca]
{self.edge_ca}
"""

    async def try_identity(self, chain: Chain, _key: KeyHandle) -> None:
        self.shown.append(chain)
        if self.refuses is not None:
            raise self.refuses

    def open(self) -> Upkeep:
        file = self.folder / "config.toml"
        file.write_text(self.config())
        settings = load_settings(file)
        self.certificates = GatewayCertificates(self.layout, self.keys, settings, self.clock)
        return Upkeep(settings, self.keys, self.certificates, self.clock, self.try_identity)

    def stored(self, identifier: str) -> Chain:
        chain = self.certificates.store.load(identifier)
        assert chain is not None
        key_matches(chain, self.keys.load(identifier))
        return chain

    def asked(self) -> list[tuple[str | None, str]]:
        return [(one.client, one.request.subject.rfc4514_string()) for one in self.est.asked]

    def pass_to(self, when: datetime) -> None:
        """Both clocks: the server's certificates begin when it is asked."""
        self.est.begin += when - self.clock.now()
        self.clock.jump(when)


@pytest.fixture(autouse=True)
def quick_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """RSA keys take their time, and no test here depends on their kind."""
    monkeypatch.setattr("edgetrust.edge.upkeep._ALGORITHM", KeyAlgorithm.P256)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    est = TestEst(life=HOUR)
    await est.start()
    yield Bench(tmp_path, est)
    await est.stop()


async def test_the_bootstrap_asks_once_then_the_identity_that_it_bought(bench: Bench) -> None:
    upkeep = bench.open()
    await upkeep.begin()
    assert bench.asked() == [
        ("CN=bootstrap", "CN=EdgeGateway"),  # the EST identity has the subject of what was wanted first
        ("CN=EdgeGateway", "CN=EdgeGateway"),
        ("CN=EdgeGateway", "CN=aziot-edge CA EdgeGateway"),
    ]
    eku = bench.est.asked[0].request.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(eku) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert list(bench.est.asked[1].request.extensions) == []
    assert {one.operation for one in bench.est.asked} == {"simpleenroll"}
    assert set(upkeep.renewing()) == {DEVICE_ID, EDGE_CA, EST_ID}
    for identifier in (EST_ID, DEVICE_ID, EDGE_CA):
        assert bench.stored(identifier).intermediates == tuple(
            holder.certificate for holder in reversed(bench.est.pki.issuers)
        )


async def test_the_edge_ca_is_a_ca_for_openssl_and_issues(bench: Bench) -> None:
    await bench.open().begin()
    bench.certificates.prepare()
    server = bench.certificates.issue_server("1", bench.certificates.new_server_key())
    (bench.folder / "leaf.pem").write_text(Chain(server.chain.certificates[:1]).pem())
    (bench.folder / "above.pem").write_text(Chain(server.chain.certificates[1:3]).pem())
    verified = openssl(
        "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "edgegateway.local",
        "-CAfile", str(bench.folder / "root.pem"), "-untrusted", str(bench.folder / "above.pem"),
        str(bench.folder / "leaf.pem"),
    )  # fmt: skip
    assert verified.returncode == 0, verified.stderr


async def test_a_second_start_asks_for_nothing(bench: Bench) -> None:
    await bench.open().begin()
    asked = len(bench.est.asked)
    await bench.open().begin()
    assert len(bench.est.asked) == asked


async def test_everything_is_renewed_in_time_by_the_identity_and_never_by_the_bootstrap(bench: Bench) -> None:
    upkeep = bench.open()
    await upkeep.begin()
    before = {identifier: bench.stored(identifier) for identifier in (EST_ID, DEVICE_ID, EDGE_CA)}
    for _ in range(4):
        bench.pass_to(bench.clock.now() + 0.83 * HOUR)
        await upkeep.renew_due()
        for identifier, old in before.items():
            new = bench.stored(identifier)
            assert new.end_entity != old.end_entity
            assert new.end_entity.subject == old.end_entity.subject
            before[identifier] = new
    assert [client for client, _ in bench.asked()].count("CN=bootstrap") == 1
    assert [chain.end_entity for chain in bench.shown][-1] == before[DEVICE_ID].end_entity
    assert len(bench.shown) == 4


async def test_a_kept_key_is_kept(bench: Bench) -> None:
    bench.edge_ca += '\n[edge_ca.auto_renew]\nrotate_key = false\nthreshold = "80%"\nretry = "4%"'
    bench.identity_renewal = bench.identity_renewal.replace("true", "false")
    upkeep = bench.open()
    await upkeep.begin()
    keys = [public_der(bench.keys.load(one).public_key()) for one in (EST_ID, EDGE_CA)]
    bench.pass_to(bench.clock.now() + 0.9 * HOUR)
    await upkeep.renew_due()
    assert [public_der(bench.keys.load(one).public_key()) for one in (EST_ID, EDGE_CA)] == keys


async def test_an_identity_that_has_ended_is_bought_again_with_the_bootstrap(bench: Bench) -> None:
    upkeep = bench.open()
    await upkeep.begin()
    bench.pass_to(bench.clock.now() + 2 * HOUR)
    await upkeep.renew_due()
    assert [client for client, _ in bench.asked()][3:] == ["CN=bootstrap", "CN=EdgeGateway", "CN=EdgeGateway"]
    bench.stored(EDGE_CA)


async def test_a_server_that_refuses_is_asked_again_until_the_end_and_after(bench: Bench) -> None:
    upkeep = bench.open()
    await upkeep.begin()
    old = bench.stored(EDGE_CA)
    bench.est.answer = lambda: web.Response(status=403, text="not any more")
    bench.pass_to(bench.clock.now() + 0.85 * HOUR)
    for _ in range(8):
        await upkeep.renew_due()
        bench.pass_to(bench.clock.now() + timedelta(minutes=3))
    state = upkeep.renewing()[EDGE_CA].state
    assert state.failures >= 7
    assert state.problem.startswith("est-not-authorized: ")
    assert "not any more" in state.problem
    assert bench.stored(EDGE_CA) == old
    bench.est.answer = lambda: None
    bench.pass_to(bench.clock.now() + HOUR)
    await upkeep.renew_due()
    assert bench.stored(EDGE_CA) != old
    assert upkeep.renewing()[EDGE_CA].state.failures == 0


async def test_a_new_identity_that_the_hub_does_not_take_is_not_promoted(bench: Bench) -> None:
    upkeep = bench.open()
    await upkeep.begin()
    old = bench.stored(DEVICE_ID)
    bench.refuses = DeviceRefusedError("no", reason="device-refused")
    bench.pass_to(bench.clock.now() + 0.85 * HOUR)
    await upkeep.renew_due()
    assert bench.stored(DEVICE_ID) == old
    assert upkeep.renewing()[DEVICE_ID].state.problem == "device-refused: no"


async def test_without_an_edge_ca_there_is_no_start(bench: Bench) -> None:
    bench.clock.jump(bench.clock.now() - timedelta(days=1))
    with pytest.raises(Error) as caught:
        await bench.open().begin()
    assert caught.value.reason in ("certificate-not-valid-now", "est-server-not-trusted")
    assert bench.certificates.store.load(EDGE_CA) is None


async def test_a_server_that_says_no_ends_the_start(bench: Bench) -> None:
    bench.est.answer = lambda: web.Response(status=403)
    with pytest.raises(Error) as caught:
        await bench.open().begin()
    assert caught.value.reason == "est-not-authorized"
    assert len(bench.est.asked) == 1


@pytest.mark.parametrize("away", ["busy", "not there", "to be approved"])
async def test_a_server_that_is_away_at_the_first_start_is_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    """What is wrong is said once, however often it is asked again."""
    monkeypatch.setattr("edgetrust.edge.upkeep.UPSTREAM_RETRY_SECONDS", (0.01,))
    monkeypatch.setattr("edgetrust.edge.upkeep.CERTIFICATE_CHECK_SECONDS", 0.01)
    answers, port = {"busy": 503, "to be approved": 202}, free_port()
    await bench.est.stop()
    await bench.est.start(port)
    if away in answers:
        bench.est.answer = lambda: web.Response(status=answers[away]) if len(bench.est.asked) < 6 else None
    with structlog.testing.capture_logs() as logs:
        upkeep = bench.open()
        if away == "not there":
            await bench.est.stop()
        starting = asyncio.create_task(upkeep.begin())
        await until(lambda: len(bench.est.asked) >= 3 or (away == "not there" and logs != []))
        assert not starting.done()
        if away == "not there":
            await bench.est.start(port)
        await starting
    assert bench.stored(EDGE_CA) != bench.stored(DEVICE_ID)
    waiting = [one["detail"] for one in logs if one["event"] == "gateway.degraded"]
    assert [one.split(":")[0] for one in waiting] == [f"waiting for the certificate {DEVICE_ID}"]


async def test_an_answer_that_is_no_ca_is_not_promoted(bench: Bench) -> None:
    upkeep = bench.open()
    await upkeep.begin()
    old = bench.stored(EDGE_CA)
    bench.pass_to(bench.clock.now() + 0.85 * HOUR)
    bench.est.drop_extensions = True
    await upkeep.renew_due()
    assert bench.stored(EDGE_CA) == old
    assert upkeep.renewing()[EDGE_CA].state.problem.startswith("edge-ca-not-a-ca")


@pytest.mark.parametrize("jump", [timedelta(days=365), -timedelta(days=365)])
async def test_a_clock_that_is_a_year_off_changes_nothing(bench: Bench, jump: timedelta) -> None:
    upkeep = bench.open()
    await upkeep.begin()
    old = {identifier: bench.stored(identifier) for identifier in (EST_ID, DEVICE_ID, EDGE_CA)}
    right = bench.clock.now()
    bench.clock.jump(right + jump)
    await upkeep.renew_due()
    assert {identifier: bench.stored(identifier) for identifier in old} == old
    bench.pass_to(right + jump)
    bench.est.begin = timedelta(minutes=-5)
    bench.clock.jump(right + 0.85 * HOUR)
    bench.est.begin += 0.85 * HOUR
    await upkeep.renew_due()
    assert bench.stored(EDGE_CA) != old[EDGE_CA]


async def test_a_quickstart_ca_gives_way_and_a_local_ca_issues(bench: Bench) -> None:
    upkeep = bench.open()
    upkeep_settings = load_settings(bench.folder / "config.toml")
    quickstart = replace(upkeep_settings, edge_ca=load_settings_without_edge_ca(bench))
    GatewayCertificates(bench.layout, bench.keys, quickstart, bench.clock)._quickstart(quickstart.edge_ca)  # type: ignore[arg-type]
    del upkeep
    ca = bench.est.pki.authority("the local ca", path_length=1)
    (bench.folder / "ca.pem").write_text(ca.full_chain.pem())
    (bench.folder / "ca.key").write_bytes(ca.key_pem())
    bench.edge_ca = (
        'method = "local_ca"\nexpiry_days = 9\n[cert_issuance.local_ca]\n'
        f'cert = "file://{bench.folder}/ca.pem"\npk = "file://{bench.folder}/ca.key"'
    )
    await bench.open().begin()
    made = bench.stored(EDGE_CA)
    assert made.intermediates == ca.full_chain.certificates
    assert made.end_entity.not_valid_after_utc - bench.clock.now() < timedelta(days=9, seconds=1)
    bench.certificates.prepare()


async def test_a_local_ca_that_is_issued_itself(bench: Bench) -> None:
    bench.edge_ca = (
        'method = "local_ca"\nexpiry_days = 9\n[cert_issuance.local_ca.cert]\n'
        'method = "self_signed"\ncommon_name = "the site\'s CA"\nexpiry_days = 90'
    )
    await bench.open().begin()
    made, ca = bench.stored(EDGE_CA), bench.stored(LOCAL_CA)
    assert made.intermediates == ca.certificates
    assert ca.end_entity.subject.rfc4514_string() == "CN=the site's CA"
    bench.certificates.prepare()
    bench.clock.advance(timedelta(days=8).total_seconds())
    await bench.open().begin()
    assert bench.stored(LOCAL_CA) == ca
    assert bench.stored(EDGE_CA) != made


def load_settings_without_edge_ca(bench: Bench) -> object:
    file = bench.folder / "quickstart.toml"
    file.write_text(bench.config().partition("[edge_ca]")[0])
    return load_settings(file).edge_ca
