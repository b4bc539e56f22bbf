"""What the routes work with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from edgetrust.broker.methods import Methods
from edgetrust.broker.sessions import Sessions
from edgetrust.clock import Clock
from edgetrust.hub.deployments import Deployments
from edgetrust.hub.jobs import JobRunner
from edgetrust.hub.policies import Policies
from edgetrust.hub.registry import HubRegistry
from edgetrust.hub.rest.access import Access
from edgetrust.hub.routing import Router
from edgetrust.hub.settings import HubSettings
from edgetrust.store.audit import AuditTrail
from edgetrust.store.c2d import C2dQueues
from edgetrust.store.certificates import CaCertificates
from edgetrust.store.configurations import Configurations
from edgetrust.store.events import EventLog
from edgetrust.store.feedback import Feedback
from edgetrust.store.files import UploadedFiles
from edgetrust.store.identities import Identities
from edgetrust.store.jobs import JobStore
from edgetrust.store.queries import Queries
from edgetrust.store.twins import Twins
from edgetrust.store.uploads import Uploads
from edgetrust.transport.websocket import WebSockets


@dataclass(frozen=True, slots=True)
class Parts:
    """The hub's parts that answer requests."""

    settings: HubSettings
    identities: Identities
    certificates: CaCertificates
    events: EventLog
    commands: C2dQueues
    feedback: Feedback
    twins: Twins
    methods: Methods
    queries: Queries
    configurations: Configurations
    deployments: Deployments
    jobs: JobStore
    job_runner: JobRunner
    trail: AuditTrail
    sessions: Sessions
    registry: HubRegistry
    policies: Policies
    access: Access
    clock: Clock
    websockets: WebSockets
    uploads: Uploads
    files: UploadedFiles
    router: Router
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def hold(
        self, waiting: Coroutine[Any, Any, object], welcome: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        """Hold an answer back until `waiting` is done or the hub stops, which must not take as long as clients wait.

        `welcome` raises when who waits may not ask any more: it is called whenever policies change meanwhile, and
        before the answer.
        """
        done, stopping = asyncio.create_task(waiting), asyncio.create_task(self.stopping.wait())
        tasks = [done, stopping]
        try:
            while not (done.done() or stopping.done()):
                news = asyncio.create_task(self.registry.policy_news.wait())
                tasks = [done, stopping, news]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
                if welcome is not None:
                    await welcome()
            if done.done():
                done.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


PARTS: web.AppKey[Parts] = web.AppKey("parts", Parts)
