"""The law of the copy: on equal facts the gateway decides as its hub does, with the same reason.

The facts are written into a hub's store; its own listing of the scope, as bytes, becomes a gateway's copy, which is
sealed on disk and read again. Hub and gateway then decide on the same credential at the same moment.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgetrust.broker.bodies import AuthenticationType
from edgetrust.clock import ManualClock
from edgetrust.edge.listing import read_listing
from edgetrust.edge.scope import ScopeRegistry
from edgetrust.errors import UnavailableError
from edgetrust.hub.rest.bodies import listing
from edgetrust.pki.chain import Chain, TrustBundle
from edgetrust.pki.keys import SecretBytes
from edgetrust.protocol.registry import encode_body
from edgetrust.store.engine import Database
from edgetrust.store.identities import Identities
from edgetrust.store.records import AuthenticationDraft, DeviceDraft, ModuleDraft, RegistryError
from edgetrust.store.snapshot import ScopeSnapshot
from edgetrust.trust.authenticate import Policy, authenticate
from edgetrust.trust.credential import ClientChain, Credential, NoCredential
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import Missing, MissingWhy, Registration
from edgetrust.trust.verdict import Accepted, Reason, Refused, Verdict
from support import pki as odd
from support.decisions import HUB, NOW, token

EDGE, SENSOR, MODULE, STRANGER, NOBODY = "Edge", "Sensor", "m", "Stranger", "Nobody"
KEYS = [bytes([n]) * 32 for n in range(3)]
CLAIMS = [
    Identity(HUB, SENSOR), Identity(HUB, SENSOR, MODULE), Identity(HUB, EDGE), Identity(HUB, EDGE, MODULE),
]  # fmt: skip
POLICY = Policy(frozenset({HUB}), module_certificates=False)


@cache
def hierarchy() -> odd.Pki:
    return odd.Pki(NOW, intermediates=1)


@cache
def chains() -> tuple[Chain, ...]:
    pki = hierarchy()
    holders = [pki.device(SENSOR), pki.device(SENSOR), pki.device(EDGE), pki.device(SENSOR.lower())]
    holders += [pki.device(SENSOR, **odd.EXPIRED), pki.device(SENSOR, **odd.NOT_YET_VALID)]
    holders += [pki.impostor().device(SENSOR), odd.self_signed(SENSOR, now=NOW), pki.authority(SENSOR)]
    return tuple(holder.chain for holder in holders)


@dataclass(frozen=True)
class Facts:
    """What a hub was told of one identity."""

    kind: AuthenticationType
    keys: tuple[int, int]
    prints: tuple[int, int | None]
    enabled: bool

    def authentication(self) -> AuthenticationDraft:
        first, second = (base64.b64encode(KEYS[number]).decode() for number in self.keys)
        slots = [None if one is None else chains()[one].thumbprint().hex() for one in self.prints]
        match self.kind:
            case AuthenticationType.SAS:
                return AuthenticationDraft(kind=self.kind, primary_key=first, secondary_key=second)
            case AuthenticationType.SELF_SIGNED:
                return AuthenticationDraft(
                    kind=self.kind, primary_thumbprint=slots[0], secondary_thumbprint=slots[1] or slots[0]
                )
            case _:
                return AuthenticationDraft(kind=self.kind)


facts = st.builds(
    Facts,
    st.sampled_from(list(AuthenticationType)),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.tuples(st.integers(0, 8), st.none() | st.integers(0, 8)),
    st.sampled_from([True, True, True, False]),
)
credentials: st.SearchStrategy[Credential] = st.one_of(
    st.builds(
        token,
        st.sampled_from(KEYS),
        st.sampled_from(
            [HUB, *(f"{HUB}%2Fdevices%2F{name}" for name in (SENSOR, EDGE, f"{SENSOR}%2Fmodules%2F{MODULE}", STRANGER))]
        ),
        st.sampled_from([-(10**6), 600]),
        st.none(),
    ),
    st.builds(lambda place: ClientChain(chains()[place]), st.integers(0, 8)),
    st.builds(NoCredential),
)


class Listed:
    """A source that has the hub's listing, and then is away."""

    def __init__(self, pages: bytes, anchors: TrustBundle) -> None:
        self._pages, self._anchors, self.away = pages, anchors, False

    async def everything(self) -> list[Registration]:
        return list(read_listing(self._pages, HUB, NOW).registrations)

    async def one(self, identity: Identity) -> tuple[Registration, ...] | Missing:
        if self.away:
            raise UnavailableError("away", reason="hub-unreachable")
        known = identity.device == STRANGER
        return Missing(MissingWhy.NOT_A_CHILD if known else MissingWhy.UNKNOWN, NOW)

    async def authorities(self) -> tuple[object, ...] | None:
        return self._anchors.anchors


@dataclass
class Pair:
    """A hub's store and what a gateway has copied of it."""

    hub: Identities
    copy: ScopeRegistry
    source: Listed
    databases: tuple[Database, Database]


async def made(folder: Path, sensor: Facts, sensor_module: Facts, edge: Facts, edge_module: Facts) -> Pair:
    clock = ManualClock(NOW)
    database, copied = (Database(f"sqlite:///{folder / name}") for name in ("hub.sqlite", "gateway.sqlite"))
    for one in (database, copied):
        await one.migrate()
    hub = Identities(database, clock, HUB, allow_edge_ca=True)
    for name in (SENSOR, STRANGER, EDGE):
        try:
            await hub.delete_device(name)
        except RegistryError:
            continue
    status = {True: "enabled", False: "disabled"}
    top = await hub.create_device(DeviceDraft(EDGE, edge.authentication(), status[edge.enabled], edge=True))
    scope = top.scope or ""
    await hub.create_device(DeviceDraft(SENSOR, sensor.authentication(), status[sensor.enabled], scope=scope))
    await hub.create_device(DeviceDraft(STRANGER, sensor.authentication()))
    leaf_module = replace(sensor_module, kind=AuthenticationType.SAS)
    await hub.create_module(ModuleDraft(SENSOR, MODULE, leaf_module.authentication()))
    own_module = replace(edge_module, kind=AuthenticationType.SAS)
    await hub.create_module(ModuleDraft(EDGE, MODULE, own_module.authentication()))
    page = await hub.scope(EDGE)
    modules = [*page.modules, await hub.module(SENSOR, MODULE)]  # a gateway asks for those of leaves one by one
    source = Listed(encode_body(listing(page.devices, tuple(modules), None)), hierarchy().bundle)

    def copy() -> ScopeRegistry:
        snapshot = ScopeSnapshot(copied, SecretBytes(b"k" * 32), HUB, EDGE)
        local = TrustBundle((), as_of=NOW)
        return ScopeRegistry(
            source,  # type: ignore[arg-type]
            snapshot, hub=HUB, local=lambda: local, authorities_file=folder / "cas.pem", clock=clock,
        )  # fmt: skip

    first = copy()
    await first.load()
    await first.synchronise()
    second = copy()  # as after a restart without the hub
    await second.load()
    source.away = True
    return Pair(hub, second, source, (database, copied))


async def both(pair: Pair, claim: Identity, credential: Credential, later: timedelta) -> tuple[Verdict, Verdict]:
    at, bundle = NOW + later, hierarchy().bundle
    here = authenticate(claim, credential, await pair.hub.find(claim), bundle, at, POLICY)
    there = authenticate(claim, credential, await pair.copy.find(claim), pair.copy.bundle(), at, POLICY)
    return here, there


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("copy")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    facts, facts, facts, facts,
    st.lists(st.tuples(st.sampled_from(CLAIMS), credentials), min_size=1, max_size=20),
    st.sampled_from([timedelta(0), timedelta(days=15), timedelta(days=4000)]),
)  # fmt: skip
def test_on_equal_facts_the_same_verdict_and_reason(
    folder: Path,
    sensor: Facts,
    sensor_module: Facts,
    edge: Facts,
    edge_module: Facts,
    attempts: list[tuple[Identity, Credential]],
    later: timedelta,
) -> None:
    async def compare() -> None:
        pair = await made(folder, sensor, sensor_module, edge, edge_module)
        try:
            for claim, credential in attempts:
                here, there = await both(pair, claim, credential, later)
                match here, there:
                    case Accepted(), Accepted():
                        assert (here.identity, here.how) == (there.identity, there.how)
                    case Refused(), Refused():
                        assert (here.claim, here.reason) == (there.claim, there.reason)
                    case _:
                        raise AssertionError(f"{claim}: hub {here}, gateway {there}")
        finally:
            for database in pair.databases:
                await database.close()

    asyncio.run(compare())


async def test_three_refusals_that_are_not_the_same(tmp_path: Path) -> None:
    plain = Facts(AuthenticationType.SAS, (0, 1), (0, None), True)
    pair = await made(tmp_path, plain, plain, plain, plain)

    async def why(device: str, key: bytes) -> Reason:
        claim = Identity(HUB, device)
        found = await pair.copy.find(claim)
        shown = token(key, f"{HUB}%2Fdevices%2F{device}", 600, None)
        verdict = authenticate(claim, shown, found, pair.copy.bundle(), NOW, POLICY)
        assert isinstance(verdict, Refused)
        return verdict.reason

    assert await why(SENSOR, KEYS[2]) is Reason.SAS_SIGNATURE_MISMATCH  # a bad key
    assert await why(STRANGER, KEYS[0]) is Reason.REGISTRY_UNAVAILABLE  # nobody can be asked
    pair.source.away = False
    pair.copy._unreachable_until = 0.0  # the pause after an unanswered question is over
    assert await why(STRANGER, KEYS[0]) is Reason.NOT_A_CHILD
    assert await why(NOBODY, KEYS[0]) is Reason.UNKNOWN_IDENTITY
    for database in pair.databases:
        await database.close()
