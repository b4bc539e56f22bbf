"""The gateway's registry: a copy of its part of the hub's, good for deciding without the hub.

Rules (edge specification 6.4, 6.5):
1. The hub is the source of truth. A full synchronisation replaces the copy; who is not in it any more is not below
this gateway. The hub's listings leave out the modules of devices that are no gateways: those that the copy has are
asked for one by one.
2. Somebody the copy does not know is asked for at once, and then not again for two minutes. Somebody it knows but who
is refused
   by it is asked for once in two minutes, since the copy may be behind.
3. An answer of the hub changes the copy: returned - kept; not allowed - not a child, removed; not found - unknown,
removed. No
   answer changes nothing: the copy decides as long as it has to, or until its deadline where there is one, also after
   a restart, and is encrypted on disk.
4. Older never overwrites newer: an answer counts from the time its question was sent.
5. "Nobody knows it", "not below this gateway" and "cannot be asked now" are told apart.
6. X.509 CA authentication accepts the CAs of the trust bundle and those that the hub has verified.

Whoever has open connections listens for what changed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol, TypeVar

import structlog
from cryptography import x509

from edgetrust.clock import Clock
from edgetrust.edge.files import read_file
from edgetrust.errors import ConfigError, IntegrityError, RefusedError, UnavailableError
from edgetrust.limits import (
    ASKED_KEPT,
    EDGE_DEPTH,
    ON_DEMAND_AT_ONCE,
    ON_DEMAND_PAUSE_SECONDS,
    SCOPE_REFRESH_SPACING_SECONDS,
)
from edgetrust.pki.chain import ChainError, TrustBundle
from edgetrust.pki.softkeys import write_public
from edgetrust.store.snapshot import ScopeSnapshot
from edgetrust.telemetry import (
    EVENT_AUTHORITIES_UNREADABLE,
    EVENT_SCOPE_NOT_ANSWERED,
    EVENT_SCOPE_SYNCHRONISED,
    EVENT_SCOPE_UNREADABLE,
)
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import CertificateAuthority, Missing, MissingWhy, Registration
from edgetrust.trust.verdict import Reason

T = TypeVar("T")
Changed = Callable[[frozenset[Identity] | None], None]
"""Told which identities changed; None when everybody may be concerned."""
_log = structlog.get_logger()


class Source(Protocol):
    """The hub, as far as the registry asks it. All may raise UnavailableError or RefusedError (of our own token)."""

    async def everything(self) -> list[Registration]: ...

    async def one(self, identity: Identity) -> tuple[Registration, ...] | Missing: ...

    async def authorities(self) -> tuple[x509.Certificate, ...] | None: ...


@dataclass(frozen=True, slots=True)
class _Absent:
    """What the hub said of somebody who is not in the copy, and when (monotonic) it was asked."""

    missing: Missing
    asked_at: float


class ScopeRegistry:
    """The broker's Registry port over the synchronised copy. `local` gives the gateway's own trust bundle."""

    def __init__(
        self,
        source: Source,
        snapshot: ScopeSnapshot,
        *,
        hub: str,
        local: Callable[[], TrustBundle],
        authorities_file: Path | None,
        clock: Clock,
        trust: timedelta | None = None,
    ) -> None:
        """`trust`: how long the copy may decide after the hub last confirmed it; None: for ever."""
        self._source = source
        self._trust = trust
        self._snapshot = snapshot
        self._hub = hub
        self._local = local
        self._authorities_file = authorities_file
        self._clock = clock
        self._known: dict[Identity, Registration] = {}
        self._absent: OrderedDict[Identity, _Absent] = OrderedDict()
        self._asked: OrderedDict[Identity, float] = OrderedDict()
        self._asking: dict[Identity, asyncio.Task[bool]] = {}
        self._at_once = asyncio.Semaphore(ON_DEMAND_AT_ONCE)
        self._synchronising = asyncio.Lock()
        self._authorities: tuple[x509.Certificate, ...] = ()
        self._bundle: tuple[TrustBundle, TrustBundle] | None = None
        self._unreachable_until = 0.0
        self._listeners: list[Changed] = []
        self._version = 0
        self._by_scope: dict[str, Registration] | None = None  # both from the copy, until it changes
        self._standing: dict[str, Reason | None] = {}
        self.as_of: datetime | None = None

    # Start ----------------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take up the copy on disk. One that cannot be opened is forgotten: the hub gives a new one."""
        try:
            self._known = {registration.identity: registration for registration in await self._snapshot.load()}
            self.as_of = await self._snapshot.as_of()
        except IntegrityError as problem:
            _log.error(EVENT_SCOPE_UNREADABLE, reason=problem.reason, detail=problem.message, fix=problem.fix)
            await self._snapshot.clear()
        self._load_authorities()
        self._version += 1
        self._by_scope, self._standing = None, {}

    def _load_authorities(self) -> None:
        if self._authorities_file is None or not self._authorities_file.exists():
            return
        try:
            pem = read_file(self._authorities_file)
            self._authorities = TrustBundle.from_pem(pem, self._clock.now()).anchors
        except (ConfigError, ChainError) as problem:
            _log.error(EVENT_AUTHORITIES_UNREADABLE, detail=problem.message)

    def listen(self, changed: Changed) -> None:
        """Call `changed` after every change of the copy."""
        self._listeners.append(changed)

    # The port -------------------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Grows with every change of the copy."""
        return self._version

    def __len__(self) -> int:
        return len(self._known)

    def knows(self, text: str) -> bool:
        """Whether an identity, as text, is in the copy."""
        device, _, module = text.partition("/")
        return Identity(self._hub, device, module or None) in self._known

    async def find(self, identity: Identity) -> Registration | Missing:
        """The registration of `identity`; asks the hub about somebody new."""
        if (known := self._known.get(identity)) is not None:
            return self._until(known)
        absent = self._absent.get(identity)
        if absent is not None and self._clock.monotonic() - absent.asked_at < SCOPE_REFRESH_SPACING_SECONDS:
            return absent.missing
        await self._ask(identity)
        if (known := self._known.get(identity)) is not None:
            return self._until(known)
        absent = self._absent.get(identity)
        return absent.missing if absent is not None else await self._without_the_hub(identity)

    def _until(self, known: Registration) -> Registration:
        """With the deadline of the copy. What the hub confirmed later is good for longer."""
        if self._trust is None:
            return known
        confirmed = known.as_of if self.as_of is None else max(known.as_of, self.as_of)
        return replace(known, trusted_until=confirmed + self._trust)

    @property
    def trusted_until(self) -> datetime | None:
        """When the copy may not decide any more; None: never, or there is none yet."""
        return None if self._trust is None or self.as_of is None else self.as_of + self._trust

    def has(self, identity: Identity) -> bool:
        """Whether the copy has a registration of `identity`."""
        return identity in self._known

    def confirm(self, since: datetime, asked_at: datetime) -> None:
        """The hub says, asked at `asked_at`, that nothing has changed since `since`: so the copy is as new as that, if
        it was made afterwards.
        """
        if self.as_of is not None and self.as_of >= since:
            self.as_of = max(self.as_of, asked_at)

    async def _without_the_hub(self, identity: Identity) -> Missing:
        remembered = await self._snapshot.find(identity)
        if isinstance(remembered, Missing) and remembered.why is MissingWhy.NOT_A_CHILD:
            return remembered
        return Missing(MissingWhy.UNAVAILABLE, self.as_of)

    async def is_below(self, device: str, gateway: Identity) -> bool:
        """Whether `device` is below `gateway`, by what the copy says of parents; a gateway is not below itself."""
        return self._leads(self._known.get(Identity(self._hub, device)), gateway)

    def _leads(self, current: Registration | None, gateway: Identity) -> bool:
        """Whether the way up from `current` comes to `gateway`, over enabled gateways only."""
        wanted = self._known.get(gateway)
        # The scope of a device that is no gateway is that of its parent (edge specification 6.5).
        if wanted is None or not wanted.edge or wanted.scope is None:
            return False
        for _ in range(EDGE_DEPTH):
            if current is None:
                return False
            if wanted.scope in current.parents:
                return True
            above = next((self._gateways()[scope] for scope in current.parents if scope in self._gateways()), None)
            current = above if above is not None and above.enabled else None
        return False

    def _gateways(self) -> Mapping[str, Registration]:
        """The gateways of the copy by the scope that each makes."""
        if self._by_scope is None:
            self._by_scope = {one.scope: one for one in self._known.values() if one.edge and one.scope is not None}
        return self._by_scope

    def why_not_from(self, device: str, gateway: Identity) -> Reason | None:
        """Why what is kept of `device` may not be passed on by `gateway`, as the copy is now; None when it may be, or
        when the copy does not tell.
        """
        if device in self._standing:
            return self._standing[device]
        if device == gateway.device or gateway not in self._known:
            return None
        found = self._standing[device] = self._why_not(self._known.get(Identity(self._hub, device)), gateway)
        return found

    def _why_not(self, known: Registration | None, gateway: Identity) -> Reason | None:
        if known is None:
            return Reason.NOT_A_CHILD
        if not known.enabled:
            return Reason.DISABLED
        return None if self._leads(known, gateway) else Reason.NOT_A_CHILD

    def chain_to(self, gateway: str, identity: Identity) -> tuple[str, ...]:
        """Who speaks for whom, from `identity` up to the device `gateway`, by what the copy says of parents. It ends
        where nothing more is known.
        """
        chain = [identity.device] if identity.module is None else [str(identity), identity.device]
        by_scope = self._gateways()
        while chain[-1] != gateway and len(chain) <= EDGE_DEPTH:
            current = self._known.get(Identity(self._hub, chain[-1]))
            parents = () if current is None else current.parents
            parent = next((by_scope[scope].identity.device for scope in parents if scope in by_scope), None)
            if parent is None or parent in chain:
                break
            chain.append(parent)
        return tuple(chain)

    def level(self, device: Identity) -> list[Registration]:
        """What a listing of the edge device holds: itself, its modules and its direct children."""
        gateway = self._known.get(device)
        if gateway is None or not gateway.edge or gateway.scope is None:
            return []
        return [
            one
            for one in self._known.values()
            if one.identity.of_device == device or (one.identity.module is None and gateway.scope in one.parents)
        ]

    @property
    def authorities(self) -> tuple[x509.Certificate, ...]:
        """The CA certificates that the hub has verified, as far as they are known here."""
        return self._authorities

    async def wait_for_change(self, after: int, seconds: float) -> None:
        """Return once the version is another than `after`, or when `seconds` have passed."""
        changed = asyncio.Event()
        listener: Changed = lambda _: changed.set()  # noqa: E731
        self._listeners.append(listener)
        try:
            async with asyncio.timeout(seconds):
                while self._version == after:
                    await changed.wait()
        except TimeoutError:
            return
        finally:
            self._listeners.remove(listener)

    def bundle(self) -> TrustBundle:
        """The trust bundle of this gateway and the CAs that the hub has verified."""
        local = self._local()
        if self._bundle is None or self._bundle[0] is not local:
            self._bundle = (local, local.with_(anchors=self._authorities) if self._authorities else local)
        return self._bundle[1]

    # On demand ------------------------------------------------------------------------------------------------------

    async def refresh(self, identity: Identity) -> bool:
        """Ask the hub about somebody who was refused by the copy, unless that was done in the last two minutes.

        Whether the copy is fresh now, so that deciding again makes sense.
        """
        asked_at = self._asked.get(identity)
        if asked_at is not None and self._clock.monotonic() - asked_at < SCOPE_REFRESH_SPACING_SECONDS:
            return False
        return await self._ask(identity)

    async def ask(self, identity: Identity, seconds: float) -> None:
        """Ask the hub about somebody, for a gateway below that has a copy of its own; wait for `seconds` at most.
        Without an answer the copy stays as it is.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._ask(identity)
        except TimeoutError:
            return

    async def _ask(self, identity: Identity) -> bool:
        """One question about `identity`, however many wait for the answer. False: no answer."""
        task = self._asking.get(identity)
        if task is None:
            if self._clock.monotonic() < self._unreachable_until:
                return False
            task = self._asking[identity] = asyncio.create_task(self._question(identity))
            task.add_done_callback(lambda _: self._asking.pop(identity, None))
        return await asyncio.shield(task)

    async def _question(self, identity: Identity) -> bool:
        started_at, asked_at = self._clock.now(), self._clock.monotonic()
        try:
            async with self._at_once:
                answer = await self._source.one(identity)
                authority = isinstance(answer, tuple) and any(
                    isinstance(one.authentication, CertificateAuthority) for one in answer
                )
                if authority:
                    await self._refresh_authorities()
            await self._settle(identity, answer, started_at, asked_at)
        except (UnavailableError, RefusedError) as problem:
            self._unreachable_until = self._clock.monotonic() + ON_DEMAND_PAUSE_SECONDS
            _log.warning(
                EVENT_SCOPE_NOT_ANSWERED, identity=str(identity), reason=problem.reason, detail=problem.message
            )
            return False
        _keep_bounded(self._asked, identity, asked_at)
        return True

    async def _settle(
        self, identity: Identity, answer: tuple[Registration, ...] | Missing, started_at: datetime, asked_at: float
    ) -> None:
        match answer:
            case Missing():
                if (known := self._known.get(identity)) is not None and known.as_of > started_at:
                    return
                gone = self._forget(identity, answer, asked_at)
                self._tell(gone)
                if gone:
                    await self._snapshot.remove(identity)
                    await self._snapshot.put([(one, started_at) for one in gone])
            case _:
                news = [one for one in answer if not self._is_newer(one)]
                self._tell([one.identity for one in news if self._take(one)])
                await self._snapshot.put(news)

    def _is_newer(self, than: Registration) -> bool:
        known = self._known.get(than.identity)
        return known is not None and known.as_of > than.as_of

    def _take(self, registration: Registration) -> bool:
        """Put a registration into the copy. Whether that changed anything but its age."""
        identity = registration.identity
        before = self._known.get(identity)
        self._known[identity] = registration
        self._absent.pop(identity, None)
        return before is None or replace(before, as_of=registration.as_of) != registration

    def _forget(self, identity: Identity, missing: Missing, asked_at: float) -> list[Identity]:
        """Remove somebody, for a device with its modules. Who was in the copy before."""
        _keep_bounded(self._absent, identity, _Absent(missing, asked_at))
        concerned = [identity]
        if identity.module is None:
            concerned += [one for one in self._known if one.module is not None and one.of_device == identity]
        gone = [one for one in concerned if self._known.pop(one, None) is not None]
        for one in gone:
            _keep_bounded(self._absent, one, _Absent(missing, asked_at))
        return gone

    # Everything -----------------------------------------------------------------------------------------------------

    async def synchronise(self) -> None:
        """Replace the copy by what the hub has now. Raises UnavailableError or RefusedError; then nothing changed."""
        async with self._synchronising:
            started_at, asked_at = self._clock.now(), self._clock.monotonic()
            listed = {registration.identity: registration for registration in await self._source.everything()}
            listed |= await self._modules_of_leaves(listed)
            changed = [one.identity for one in listed.values() if not self._is_newer(one) and self._take(one)]
            missing = Missing(MissingWhy.NOT_A_CHILD, started_at)
            for identity in [one for one in self._known if one not in listed]:
                if identity in self._known and self._known[identity].as_of <= started_at:
                    changed += self._forget(identity, missing, asked_at)
            self._tell(changed)
            removed = await self._snapshot.replace(list(self._known.values()), started_at)
            await self._snapshot.put([(identity, started_at) for identity in removed])
            self.as_of = started_at
            await self._refresh_authorities()
            _log.info(EVENT_SCOPE_SYNCHRONISED, identities=len(self._known), changed=len(changed))

    async def _modules_of_leaves(self, listed: Mapping[Identity, Registration]) -> dict[Identity, Registration]:
        """What the hub says of the modules in the copy that its listing cannot have."""

        async def ask(identity: Identity) -> tuple[Registration, ...] | Missing:
            async with self._at_once:
                return await self._source.one(identity)

        def is_leaf(device: Identity) -> bool:
            return device in listed and not listed[device].edge

        wanted = {one for one in self._known if one.module is not None and one not in listed and is_leaf(one.of_device)}
        answers = await asyncio.gather(*map(ask, wanted))
        found = (one for answer in answers if isinstance(answer, tuple) for one in answer)
        return {one.identity: one for one in found if one.identity in wanted}

    async def _refresh_authorities(self) -> None:
        if self._authorities_file is None:
            return
        authorities = await self._source.authorities()
        if authorities is None or set(authorities) == set(self._authorities):
            return
        self._authorities, self._bundle = authorities, None
        pem = TrustBundle(authorities, as_of=self._clock.now()).pem().encode()
        await asyncio.to_thread(write_public, self._authorities_file, pem)
        self._version += 1
        for listener in self._listeners:
            listener(None)

    def _tell(self, changed: Iterable[Identity]) -> None:
        identities = frozenset(changed)
        if not identities:
            return
        self._version += 1
        self._by_scope, self._standing = None, {}
        for listener in self._listeners:
            listener(identities)


def _keep_bounded(kept: OrderedDict[Identity, T], identity: Identity, value: T) -> None:
    kept[identity] = value
    kept.move_to_end(identity)
    if len(kept) > ASKED_KEPT:
        kept.popitem(last=False)
