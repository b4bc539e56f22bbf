"""A device's certificate: bootstrap, then its own; proven, then promoted; kept for ever."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from edgetrust.clock import ManualClock
from edgetrust.device.enroll import Enrolment, Order, Renewal
from edgetrust.device.est import EstRefusedError, Shown
from edgetrust.device.identity import IdentityFolder, Pair
from edgetrust.device.proof import at_est_server
from edgetrust.errors import IntegrityError, RefusedError, UnavailableError, UsageError
from edgetrust.pki.chain import key_matches
from edgetrust.pki.keys import public_der
from edgetrust.pki.renewal import AutoRenew, RenewalState
from support.est_server import TestEst

YEAR = timedelta(days=365)


class Bench:
    """A folder, a server, a clock, and a proof that can be told to fail."""

    def __init__(self, est: TestEst, directory: Path) -> None:
        self.est = est
        self.folder = IdentityFolder(directory / "sensor")
        self.clock = ManualClock(datetime.now(UTC))
        self.policy = AutoRenew()
        self.bootstrap = True
        self.refuses: Exception | None = None
        self.tried: list[Pair] = []

    async def prove(self, pair: Pair) -> None:
        self.tried.append(pair)
        if self.refuses is not None:
            raise self.refuses
        await at_est_server(self.est.server(), self.clock)(pair)

    @property
    def enrolment(self) -> Enrolment:
        holder = self.est.bootstrap()
        shown = Shown(holder.chain, holder.key) if self.bootstrap else None
        return Enrolment(
            self.folder, Order("sensor", self.est.server(), shown, policy=self.policy), self.prove, self.clock
        )

    def in_use(self) -> Pair:
        pair = self.folder.current()
        assert pair is not None
        key_matches(pair.chain, pair.key)
        return pair

    def who_asked(self) -> list[tuple[str, str | None]]:
        return [(one.operation, one.client) for one in self.est.asked]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    est = TestEst()
    await est.start()
    yield Bench(est, tmp_path)
    await est.stop()


async def test_bootstrap_once_then_its_own_then_bootstrap_when_it_has_ended(bench: Bench) -> None:
    first = await bench.enrolment.obtain()
    second = await bench.enrolment.obtain()
    bench.clock.jump(second.chain.end_entity.not_valid_after_utc + timedelta(seconds=1))
    with pytest.raises(IntegrityError):  # this clock is ahead of the server's; see below
        await bench.enrolment.obtain()
    assert bench.who_asked() == [
        ("simpleenroll", "CN=bootstrap"),
        ("simplereenroll", "CN=sensor"),
        ("simpleenroll", "CN=bootstrap"),
    ]
    assert public_der(first.key.public_key()) != public_der(second.key.public_key())
    assert bench.in_use().chain == second.chain


async def test_files_are_private_and_what_programs_are_given_fits(bench: Bench) -> None:
    await bench.enrolment.obtain()
    assert bench.folder.directory.stat().st_mode & 0o777 == 0o700
    assert bench.folder.key_file.stat().st_mode & 0o777 == 0o600
    assert bench.folder.certificate_file.read_text() == bench.in_use().chain.pem()
    names = sorted(entry.name for entry in bench.folder.directory.iterdir())
    assert names == ["cert.pem", "current", "generation-1", "key.pem"]


async def test_a_kept_key_is_kept(bench: Bench) -> None:
    bench.policy = AutoRenew(rotate_key=False)
    first, second = await bench.enrolment.obtain(), await bench.enrolment.obtain()
    assert public_der(first.key.public_key()) == public_der(second.key.public_key())
    assert first.chain != second.chain


async def test_a_refused_candidate_stays_beside_and_is_tried_again_before_another_is_asked_for(bench: Bench) -> None:
    old = await bench.enrolment.obtain()
    bench.refuses = RefusedError("not registered", reason="thumbprint-mismatch")
    with pytest.raises(RefusedError):
        await bench.enrolment.obtain()
    assert bench.in_use().chain == old.chain
    waiting = bench.folder.candidate()
    assert waiting is not None

    bench.refuses = None  # it was registered meanwhile
    await bench.enrolment.obtain()
    assert bench.in_use().chain == waiting.chain
    assert len(bench.est.asked) == 2
    assert [pair.chain for pair in bench.tried] == [old.chain, waiting.chain, waiting.chain]


async def test_a_server_that_refuses_changes_nothing(bench: Bench) -> None:
    old = await bench.enrolment.obtain()
    bench.est.answer = lambda: web.Response(status=403)
    with pytest.raises(EstRefusedError):
        await bench.enrolment.obtain()
    assert bench.in_use().chain == old.chain
    assert bench.folder.candidate() is None


async def test_nothing_to_ask_with(bench: Bench) -> None:
    bench.bootstrap = False
    with pytest.raises(UsageError) as caught:
        await bench.enrolment.obtain()
    assert caught.value.reason == "bootstrap-missing"


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
async def test_a_clock_that_is_a_year_off_destroys_nothing(bench: Bench, jump: timedelta) -> None:
    old = await bench.enrolment.obtain()
    right = bench.clock.now()
    bench.clock.jump(right + jump)
    with pytest.raises(IntegrityError) as caught:
        await bench.enrolment.obtain()
    assert caught.value.reason == "certificate-not-valid-now"
    assert bench.in_use().chain == old.chain
    bench.clock.jump(right)
    await bench.enrolment.obtain()
    assert bench.in_use().chain != old.chain


async def test_a_damaged_candidate_is_forgotten(bench: Bench) -> None:
    await bench.enrolment.obtain()
    (bench.folder.directory / "candidate").mkdir()
    (bench.folder.directory / "candidate/cert.pem").write_text("junk")
    (bench.folder.directory / "candidate/key.pem").write_text("junk")
    await bench.enrolment.obtain()
    assert bench.in_use().chain.end_entity == bench.est.issued[-1]


# The renewal that never gives up ------------------------------------------------------------------------------------


async def test_failures_are_written_down_and_success_ends_them(bench: Bench) -> None:
    told: list[RenewalState] = []
    renewal = Renewal(bench.enrolment, bench.policy, bench.clock, tell=told.append)
    bench.est.answer = lambda: web.Response(status=503)
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await renewal.attempt()
    assert (told[-1].failures, told[-1].problem.partition(":")[0]) == (2, "est-unavailable")
    bench.est.answer = lambda: None
    await renewal.attempt()
    assert told[-1] == RenewalState(renewed_at=bench.clock.now())


async def test_a_full_disk_is_written_down_and_the_old_stays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    old = await bench.enrolment.obtain()
    renewal = Renewal(bench.enrolment, bench.policy, bench.clock)

    def full(_chain: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("edgetrust.device.identity.IdentityFolder.complete", lambda _folder, chain: full(chain))
    with pytest.raises(OSError, match="No space left"):
        await renewal.attempt()
    assert renewal.state.problem == "cannot be written: No space left on device"
    assert bench.in_use().chain == old.chain


async def test_it_goes_on_after_failures_and_renews_in_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([web.Response(status=503), web.Response(status=403)])
    bench.est.answer = lambda: next(answers, None)
    done = asyncio.Event()
    renewal = Renewal(bench.enrolment, bench.policy, bench.clock, tell=lambda state: state.renewed_at and done.set())

    async def pass_time(seconds: float) -> None:
        bench.clock.advance(seconds)
        if done.is_set():
            await asyncio.Event().wait()

    monkeypatch.setattr("edgetrust.device.enroll.asyncio.sleep", pass_time)
    keeping = asyncio.create_task(renewal.keep())
    await done.wait()
    keeping.cancel()
    assert len(bench.est.asked) == 3
    assert bench.in_use().chain.end_entity == bench.est.issued[0]
