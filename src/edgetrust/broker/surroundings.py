"""Surroundings: the ports and tables that all sessions of one actor share."""

from __future__ import annotations

from edgetrust.broker.methods import Methods
from edgetrust.broker.ports import Commands, Endpoint, Registry, Subscriptions, Tasks, Twins
from edgetrust.broker.sessions import Sessions
from edgetrust.clock import Clock


class Surroundings:
    """What all sessions of one actor share. `twins` and `methods` are None where they are not offered."""

    __slots__ = (
        "clock",
        "commands",
        "endpoint",
        "methods",
        "registry",
        "sessions",
        "subscriptions",
        "tasks",
        "twins",
    )

    def __init__(
        self,
        *,
        registry: Registry,
        endpoint: Endpoint,
        subscriptions: Subscriptions,
        commands: Commands,
        sessions: Sessions,
        tasks: Tasks,
        clock: Clock,
        twins: Twins | None = None,
        methods: Methods | None = None,
    ) -> None:
        self.registry = registry
        self.endpoint = endpoint
        self.subscriptions = subscriptions
        self.commands = commands
        self.sessions = sessions
        self.tasks = tasks
        self.clock = clock
        self.twins = twins
        self.methods = methods
