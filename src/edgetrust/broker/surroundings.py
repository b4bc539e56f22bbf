"""Surroundings: the ports and tables that all sessions of one actor share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgetrust.broker.methods import Methods
from edgetrust.broker.ports import Commands, Endpoint, Inputs, Registry, Subscriptions, Tasks, Twins
from edgetrust.broker.sessions import Sessions
from edgetrust.clock import Clock

if TYPE_CHECKING:
    from edgetrust.broker.session import Session


class Surroundings:
    """What all sessions of one actor share. `twins`, `methods` and `inputs` are None where they are not offered.

    `interested` is called with a session when it is open, and whenever its subscriptions have changed.
    """

    __slots__ = (
        "clock",
        "commands",
        "endpoint",
        "inputs",
        "interested",
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
        inputs: Inputs | None = None,
        interested: Callable[[Session], None] | None = None,
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
        self.inputs = inputs
        self.interested = interested
