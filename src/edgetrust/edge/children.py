"""What those below this gateway have at the hub besides telemetry: twins, direct methods, cloud-to-device messages.

Each of them that wants any of it gets a connection to the hub in its own name (`childlink`), which lives as long as its
session here, or until its reports are with the hub. A gateway below this one always has one: the hub is to see that it
is there.

    twin request        reports that wait go first; then the hub is asked, and the answer remembered. Without the hub
                        the copy answers, if there is one
    report              remembered, then sent; without the hub it waits, and counts in the copy at once
    desired properties  a change goes to the child when it is remembered; what changed while the hub was away is told as
                        one patch when it is back
    method, command     passed on while both sides are connected, never stored

Source: edge specification 6.7.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol

import msgspec
import structlog

from edgetrust.broker.methods import Methods
from edgetrust.broker.ports import Tasks
from edgetrust.broker.session import Session
from edgetrust.broker.sessions import Sessions
from edgetrust.edge.childlink import ChildLink, Dial
from edgetrust.edge.commands import PassedCommands
from edgetrust.edge.twinquestions import section, without_version
from edgetrust.errors import IntegrityError, PeerError, UnavailableError
from edgetrust.limits import METHOD_RESPONSE_SECONDS_MAX
from edgetrust.protocol.iothub import (
    DeviceboundTopic,
    MethodRequestTopic,
    SubscriptionKind,
    TwinDesiredTopic,
    parse_delivery_topic,
)
from edgetrust.protocol.methods import MethodAnswer, MethodCall, MethodError
from edgetrust.protocol.mqtt.packets import Publish
from edgetrust.protocol.twin import DesiredChange, Json, Twin, TwinError, difference, merge, parse_patch
from edgetrust.store.twin_copies import TwinCopies, TwinCopy
from edgetrust.telemetry import EVENT_TWIN_COPY_UNREADABLE, EVENT_TWIN_REPORT_REFUSED
from edgetrust.trust.authorize import EDGE_HUB
from edgetrust.trust.identity import Identity

_WANTED = frozenset(SubscriptionKind) - {SubscriptionKind.INPUTS}
_log = structlog.get_logger()


class Observer(Protocol):
    """Who hears what is done with twins; `since` is what `now` said when it began."""

    def now(self) -> float: ...

    def read(self, identity: Identity, since: float, *, from_hub: bool) -> None: ...

    def reported(self, identity: Identity, patch: Json, since: float, *, to_hub: bool) -> None: ...


class _Nobody:
    def now(self) -> float:
        return 0.0

    def read(self, identity: Identity, since: float, *, from_hub: bool) -> None:
        pass

    def reported(self, identity: Identity, patch: Json, since: float, *, to_hub: bool) -> None:
        pass


class Children:
    """The twins port of a gateway, and what carries methods and commands to its children."""

    def __init__(
        self, hub: str, dial: Dial, copies: TwinCopies, commands: PassedCommands, sessions: Sessions, tasks: Tasks
    ) -> None:
        self._hub = hub
        self._dial = dial
        self._copies = copies
        self._commands = commands
        self._sessions = sessions
        self._tasks = tasks
        self._links: dict[Identity, ChildLink] = {}
        self._locks: dict[Identity, asyncio.Lock] = {}
        self._said: dict[Identity, dict[str, str]] = {}  # by those who are connected
        self.methods: Methods | None = None
        self.observer: Observer = _Nobody()

    # Sessions come and go -------------------------------------------------------------------------------------------

    def interested(self, session: Session) -> None:
        """A session is open, or its subscriptions have changed."""
        kinds = frozenset(kind for kind in _WANTED if session.filters.qos_of(kind) is not None)
        if kinds or session.identity in self._links or session.identity.module == EDGE_HUB:
            self._link(session.identity).follow(kinds)

    def seen(self, identity: Identity, here: bool) -> None:
        """A child has come or gone."""
        if here:
            return
        self._said.pop(identity, None)
        link = self._links.get(identity)
        if link is None:
            return
        link.follow(frozenset())
        self._tasks.start(self._leave(link))

    async def forget(self, identities: Iterable[Identity]) -> None:
        """These are not below this gateway any more: what is known of their twins goes, and what they reported."""
        for identity in identities:
            async with self._lock(identity):
                link = self._links.pop(identity, None)
                if link is not None:
                    link.close()
                await self._copies.forget(identity)
            self._said.pop(identity, None)

    async def resume(self, gone: Callable[[Identity], bool]) -> None:
        """After a start: forget who left unseen, and bring to the hub what was reported before."""
        await self.forget([one for one in await self._copies.everybody(self._hub) if gone(one)])
        for identity in await self._copies.waiting(self._hub):
            self._link(identity)

    def close(self) -> None:
        """End every connection."""
        for link in self._links.values():
            link.close()

    def _link(self, identity: Identity) -> ChildLink:
        link = self._links.get(identity)
        if link is None:
            link = self._links[identity] = ChildLink(identity, self._dial, self, self._said.get(identity, {}))
            self._tasks.start(self._keep(link))
        return link

    async def _keep(self, link: ChildLink) -> None:
        try:
            await link.run()
        finally:
            if self._links.get(link.identity) is link:
                del self._links[link.identity]

    async def _leave(self, link: ChildLink) -> None:
        """Close a connection that nobody needs: no session here, and nothing waits for the hub."""
        async with self._lock(link.identity):
            copy = await self._find(link.identity)
            if not copy.waiting and self._sessions.of(link.identity) is None:
                if self._links.get(link.identity) is link:
                    del self._links[link.identity]
                link.close()

    # The twins port -------------------------------------------------------------------------------------------------

    def note_client(self, device: str, module: str | None, model_id: str, product_info: str) -> None:
        """Who is about to connect says this of itself: the hub is told the same."""
        said = {"DeviceClientType": product_info, "model-id": model_id}
        self._said[Identity(self._hub, device, module)] = {name: text for name, text in said.items() if text}

    async def twin(self, device: str, module: str | None = None) -> Twin:
        """The hub's, or the copy while the hub is away. UnavailableError when there is none either."""
        identity, since = Identity(self._hub, device, module), self.observer.now()
        link = self._link(identity)
        reachable = await link.ready()
        async with self._lock(identity):
            copy = await self._find(identity)
            if reachable:
                try:
                    copy = await self._bring_up_to_date(link, copy)
                except UnavailableError:  # lost meanwhile: what is remembered by now has to do
                    copy, reachable = await self._find(identity), False
            if not copy.is_known:
                message = f"the twin of {identity} is not known here, and the hub cannot be asked now"
                raise UnavailableError(message, reason="hub-unreachable")
            self.observer.read(identity, since, from_hub=reachable)
            return copy.twin()

    async def report(self, device: str, patch: Json, *, module: str | None = None) -> int:
        """Remember a patch of the reported properties, then bring it to the hub if that is there. The new version.

        Raises TwinError as the hub would.
        """
        identity, since = Identity(self._hub, device, module), self.observer.now()
        link = self._link(identity)
        reachable = await link.ready()
        async with self._lock(identity):
            copy = await self._find(identity)
            if reachable and not copy.is_known:
                copy = await self._bring_up_to_date(link, copy)
            copy = copy.with_report(patch)
            await self._copies.keep(identity, copy)
            if reachable:
                with suppress(UnavailableError):  # then it waits
                    copy = await self._send_reports(link, copy)
            self.observer.reported(identity, patch, since, to_hub=reachable and not copy.waiting)
            return copy.twin().reported.version

    # What the hub says ----------------------------------------------------------------------------------------------

    def connected(self, child: ChildLink) -> None:
        """A connection stands: bring both sides up to date."""
        self._tasks.start(self._catch_up(child))

    def lost(self, child: ChildLink) -> None:
        """A connection ended: the hub sends again what was not acknowledged."""
        if child.identity.module is None:
            self._commands.forget(child.identity.device)

    def heard(self, child: ChildLink, message: Publish) -> None:
        """Something came for a child."""
        topic = parse_delivery_topic(message.topic)
        match topic:
            case DeviceboundTopic(device, properties):
                self._commands.arrived(
                    device,
                    properties,
                    message.payload,
                    again=message.dup,
                    acknowledge=lambda: child.acknowledge(message),
                )
                session = self._sessions.of(child.identity)
                if session is not None:
                    session.commands_waiting()
                return
            case MethodRequestTopic(method, request_id):
                self._call(child, MethodCall(method, message.payload), request_id)
            case TwinDesiredTopic(version):
                self._tasks.start(self._desired(child, version, message.payload))
            case _:
                pass
        child.acknowledge(message)

    async def _catch_up(self, link: ChildLink) -> None:
        identity = link.identity
        try:
            async with self._lock(identity):
                before = await self._find(identity)
                if before.is_known or before.waiting or self._sessions.of(identity) is not None:
                    after = await self._bring_up_to_date(link, before)
                    if before.is_known and after.desired_version != before.desired_version:
                        self._tell(identity, difference(before.desired, after.desired), after.desired_version)
        except (UnavailableError, PeerError):
            return  # the next connection, or the next request, is another attempt
        await self._leave(link)

    async def _desired(self, link: ChildLink, version: int, body: bytes) -> None:
        try:
            patch = parse_patch(body)
            async with self._lock(link.identity):
                copy = await self._find(link.identity)
                if version <= copy.desired_version:
                    return
                values = without_version(patch)
                if version == copy.desired_version + 1:
                    after = copy.told(merge(copy.desired, values), version, copy.reported, copy.reported_version)
                    await self._copies.keep(link.identity, after)
                else:  # the first, or one was missed
                    after = await self._bring_up_to_date(link, copy)
                    values = dict(difference(copy.desired, after.desired)) if copy.is_known else values
                self._tell(link.identity, values, after.desired_version)
        except (TwinError, UnavailableError):
            return  # a hub that says no JSON, or one that is gone: the next twin tells

    def _tell(self, identity: Identity, patch: Json, version: int) -> None:
        session = self._sessions.of(identity)
        if session is not None:
            session.desired_changed(DesiredChange(patch, version))

    def _call(self, child: ChildLink, call: MethodCall, request_id: str) -> None:
        assert self.methods is not None
        methods = self.methods

        def answered(answer: MethodAnswer) -> None:
            waiting.cancel()
            self._tasks.start(child.answer_method(request_id, answer.status, answer.payload))

        try:
            placed = methods.place(child.identity, call, _nothing, answered)
        except MethodError as problem:
            body = msgspec.json.encode({"message": problem.message})
            self._tasks.start(child.answer_method(request_id, problem.status, body))
            return
        # The hub knows how long its caller waits; nobody waits longer than this.
        waiting = asyncio.get_running_loop().call_later(METHOD_RESPONSE_SECONDS_MAX, methods.withdraw, placed)

    # Under the lock of the identity ---------------------------------------------------------------------------------

    def _lock(self, identity: Identity) -> asyncio.Lock:
        return self._locks.setdefault(identity, asyncio.Lock())

    async def _find(self, identity: Identity) -> TwinCopy:
        try:
            return await self._copies.find(identity)
        except IntegrityError as problem:
            _log.error(
                EVENT_TWIN_COPY_UNREADABLE, identity=str(identity), reason=problem.reason, detail=problem.message
            )
            await self._copies.forget(identity)
            return TwinCopy()

    async def _bring_up_to_date(self, link: ChildLink, copy: TwinCopy) -> TwinCopy:
        """Send what waits, then ask for the twin and remember it."""
        copy = await self._send_reports(link, copy)
        body = parse_patch(await link.twin())
        desired, said = section(body, "desired"), section(body, "reported")
        copy = copy.told(desired[0], desired[1], said[0], said[1])
        await self._copies.keep(link.identity, copy)
        return copy

    async def _send_reports(self, link: ChildLink, copy: TwinCopy) -> TwinCopy:
        while copy.waiting:
            try:
                version = await link.report(msgspec.json.encode(copy.waiting[0]))
            except PeerError as problem:  # never to be taken: it must not hold up those behind it
                _log.error(EVENT_TWIN_REPORT_REFUSED, identity=str(link.identity), status=problem.status)
                version = copy.reported_version
            copy = copy.taken(version)
            await self._copies.keep(link.identity, copy)
        return copy


def _nothing() -> None:
    """That a call went out is of no interest: the hub waits for its answer."""
