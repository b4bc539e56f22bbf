"""Which connections a gateway passes on for those below it: to EST servers and provisioning services that they have no
way to (`[edgetrust.forward]`).

    the name is ours, or none         served here
    the name is on the list           passed on: to the gateway above, or by the top one to the service itself
    too many already                  refused: forward-limit
    another name                      served here; who then leaves without a word meant somebody else, and is on
                                      record as forward-name-not-allowed

Rules. TLS goes through from end to end, so that the service sees the client's own certificate and proof of its key, and
nobody in between can issue, register or read anything. Nobody is authenticated here: who wants a first certificate has
none, and the service decides. What a client asks for chooses among the names on the list and nothing else; where they
are is the configuration's. Decided, put on record, then dialled.

It must not know sockets, nor what EST and registrations are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, assert_never

import structlog

from edgetrust.broker.ports import Auditor
from edgetrust.clock import Clock
from edgetrust.edge.metrics import GatewayMetrics
from edgetrust.edge.settings import Settings
from edgetrust.errors import Error, PeerError
from edgetrust.telemetry import EVENT_FORWARD_UNREACHABLE
from edgetrust.transport.addresses import counted_as, peer_address
from edgetrust.transport.forward import Target
from edgetrust.trust.audit import Record, record
from edgetrust.trust.forward import Forwarded, meant_another, pass_on
from edgetrust.trust.verdict import Refused

FORWARDED: Final = "forwarded"
_UNLISTED: Final = ""  # strangers' names are no labels
_log = structlog.get_logger()

Peer = tuple[str, int]


class Forwarding:
    """What one gateway passes on. `own` gives the names, in lower case, under which it is known at the moment."""

    def __init__(
        self,
        settings: Settings,
        own: Callable[[], frozenset[str]],
        auditor: Auditor,
        metrics: GatewayMetrics,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self.own = own
        self._auditor = auditor
        self._metrics = metrics
        self._clock = clock
        self._open: Counter[str] = Counter()

    def on_https(self) -> Names | None:
        """What is passed on from the HTTPS port; None: nothing."""
        forward, upstream = self._settings.forward, self._settings.upstream
        return self._names("forward-https", forward.https, upstream.https_port)

    def on_mqtt(self) -> Names | None:
        """What is passed on from the MQTT port; None: nothing."""
        forward, upstream = self._settings.forward, self._settings.upstream
        return self._names("forward-mqtt", forward.mqtt, upstream.mqtt_port)

    def state(self) -> dict[str, Any]:
        """What is passed on, for who shows it."""
        forward = self._settings.forward
        return {"https": sorted(forward.https), "mqtt": sorted(forward.mqtt), "open": self._open.total()}

    def _names(self, place: str, ports: Mapping[str, int], above: int) -> Names | None:
        upstream = self._settings.upstream
        targets = {
            name: Target(name, upstream.host, above) if upstream.passes(name) else Target(name, name, port)
            for name, port in ports.items()
        }
        return Names(self, place, MappingProxyType(targets)) if targets else None

    # For the names of each port -------------------------------------------------------------------------------------

    def take(self, target: Target, place: str, peer: Peer) -> None:
        """One connection more. Raises PeerError when there are too many."""
        address, total = counted_as(peer[0]), self._open.total()
        verdict = pass_on(target.name, f"{target.host}, port {target.port}", self._open[address], total)
        self.record(verdict, place, target.name, peer)
        match verdict:
            case Refused():
                self.count(target.name, verdict.reason.value)
                raise PeerError(verdict.detail, reason=verdict.reason.value)
            case Forwarded():
                self.count(target.name, FORWARDED)
                self._open[address] += 1
                self._metrics.forwarded_open.set({(): total + 1})
            case _:
                assert_never(verdict)

    def leave(self, peer: Peer) -> None:
        """One connection less."""
        address = counted_as(peer[0])
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]
        self._metrics.forwarded_open.set({(): self._open.total()})

    def record(self, verdict: Forwarded | Refused, place: str, name: str, peer: Peer) -> None:
        """Put a decision on record."""
        now, address = self._clock.now(), peer_address(peer)
        if isinstance(verdict, Refused):
            self._auditor.record(record(verdict, at=now, place=place, peer=address, claimed=name))
        else:
            self._auditor.record(Record(now, place, address, name, True, FORWARDED, verdict.checks))

    def count(self, name: str, outcome: str) -> None:
        """Count what became of a connection."""
        self._metrics.forwarded.add(name, outcome)

    def moved(self, name: str, up: int, down: int) -> None:
        """Count bytes."""
        for direction, size in (("up", up), ("down", down)):
            if size:
                self._metrics.forwarded_bytes.add(name, direction, count=size)


class Names:
    """The names of one port: the listener's Forwarder. `place` is what its decisions are put on record with."""

    def __init__(self, forwarding: Forwarding, place: str, targets: Mapping[str, Target]) -> None:
        self._forwarding = forwarding
        self._place = place
        self._targets = targets

    def target(self, name: str | None, peer: Peer) -> Target | None:
        """Where a client that asks for `name` goes; None: it is served here. Raises PeerError."""
        found = None if name is None or name in self._forwarding.own() else self._targets.get(name)
        if found is not None:
            self._forwarding.take(found, self._place, peer)
        return found

    def moved(self, target: Target, up: int, down: int) -> None:
        """So many bytes went each way."""
        self._forwarding.moved(target.name, up, down)

    def unreachable(self, target: Target, peer: Peer, problem: Error) -> None:
        """The target cannot be reached: its client has been told, and asks again when it wants to."""
        self._forwarding.count(target.name, problem.reason)
        _log.warning(
            EVENT_FORWARD_UNREACHABLE,
            peer=peer_address(peer),
            name=target.name,
            reason=problem.reason,
            detail=problem.message,
            fix=problem.fix,
        )

    def ended(self, target: Target, peer: Peer) -> None:
        """A connection that was passed on is over."""
        self._forwarding.leave(peer)

    def left_at_once(self, name: str, peer: Peer) -> None:
        """A client that asked for `name` saw our certificate and left. If the name is not ours, it meant another."""
        if name.lower() in self._forwarding.own():
            return
        verdict = meant_another(name, self._targets)
        self._forwarding.record(verdict, self._place, name, peer)
        self._forwarding.count(_UNLISTED, verdict.reason.value)
