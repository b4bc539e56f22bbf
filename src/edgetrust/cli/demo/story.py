"""Telling the story: every line in its order, with its evidence, whatever became of the lines before."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from edgetrust.cli.demo import steps
from edgetrust.cli.demo.scene import Scene
from edgetrust.errors import Error


@dataclass(frozen=True, slots=True)
class Step:
    """One line: a stable name, what it states, and what shows it."""

    name: str
    statement: str
    show: Callable[[Scene], str]


@dataclass(frozen=True, slots=True)
class Line:
    """One line, told: whether it holds, and the evidence for or against it."""

    name: str
    statement: str
    holds: bool
    evidence: str
    seconds: float


STEPS = (
    Step("hub-chain", "The hub shows a certificate for its name, below a root that is trusted", steps.hub_chain),
    Step(
        "thumbprint",
        "EdgeGateway's certificate has the thumbprint that the registry holds",
        steps.thumbprint_in_registry,
    ),
    Step(
        "second-thumbprint",
        "When a device's first certificate expires, its second one is used",
        steps.second_thumbprint,
    ),
    Step("gateway-chain", "The gateway shows a chain of four up to my_private_root_CA", steps.gateway_chain),
    Step("name-match", "The certificate is for the name that TempSensor dials", steps.name_matches),
    Step("name-mismatch", "Under another name TempSensor rejects the gateway", steps.other_name_refused),
    Step("sensor", "TempSensor is accepted by its thumbprint", steps.sensor_accepted),
    Step("telemetry", "Its telemetry is at the hub", steps.telemetry_at_hub),
    Step("x509-ca", "HumiditySensor is accepted by a CA that was uploaded to the hub", steps.ca_sensor_accepted),
    Step("intruder-unknown", "Refused: TempSensor's name with an unknown certificate", steps.unknown_certificate),
    Step("intruder-copy", "Refused: TempSensor's certificate, copied without its key", steps.copied_certificate),
    Step("intruder-expired", "Refused: an expired certificate", steps.expired_certificate),
    Step("intruder-not-a-child", "Refused: a device that is not a child of this gateway", steps.not_a_child),
    Step("intruder-other-ca", "Refused: a certificate of another CA", steps.another_ca),
    Step("offline-accepted", "Hub cut off: TempSensor is still accepted, from the copy", steps.accepted_from_copy),
    Step("offline-restart", "Hub cut off: copy and messages survive a crash", steps.copy_survives_restart),
    Step("offline-unknown", "Hub cut off: an unknown device is refused", steps.unknown_without_hub),
    Step("delivered", "Hub back: every message arrives, in order", steps.delivered_in_order),
    Step("disabled", "Disabled at the hub, TempSensor loses its open connection", steps.disabled_is_cut),
)


def tell(scene: Scene, chapters: Iterable[Step] = STEPS) -> Iterator[Line]:
    """Each line as it is told. A line that fails says why and does not stop the others."""
    for step in chapters:
        scene.told(f"showing {step.name}")
        began = time.monotonic()
        try:
            holds, evidence = True, step.show(scene)
        except Error as problem:
            holds, evidence = False, problem.message
        yield Line(step.name, step.statement, holds, evidence, round(time.monotonic() - began, 2))
