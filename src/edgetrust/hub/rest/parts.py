"""What the routes work with."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from edgetrust.broker.sessions import Sessions
from edgetrust.clock import Clock
from edgetrust.hub.registry import HubRegistry
from edgetrust.hub.rest.access import Access
from edgetrust.hub.settings import HubSettings
from edgetrust.store.audit import AuditTrail
from edgetrust.store.c2d import C2dQueues
from edgetrust.store.certificates import CaCertificates
from edgetrust.store.events import EventLog
from edgetrust.store.identities import Identities
from edgetrust.transport.websocket import WebSockets


@dataclass(frozen=True, slots=True)
class Parts:
    """The hub's parts that answer requests."""

    settings: HubSettings
    identities: Identities
    certificates: CaCertificates
    events: EventLog
    commands: C2dQueues
    trail: AuditTrail
    sessions: Sessions
    registry: HubRegistry
    access: Access
    clock: Clock
    websockets: WebSockets


PARTS: web.AppKey[Parts] = web.AppKey("parts", Parts)
