"""No module outlives its gateway: not one that is stopped, nor one that is killed with -9 and started again."""

from __future__ import annotations

import signal
from pathlib import Path

from support.edge_world import World, wait_until
from support.module_process import processes_of

MODULE = """
[edgetrust.modules.grafana]
command = ["sh", "-c", "sleep 3001 & sleep 3002; true"]
"""


def test_modules_end_with_the_gateway_however_it_ends(world: World) -> None:
    made = world.gateway(world.edge_device(), extra=MODULE)
    made.start()
    wait_until(lambda: _commands(made.root) == {"sh", "sleep 3001", "sleep 3002"})
    made.stop(signal.SIGKILL)
    wait_until(lambda: "sh" not in _commands(made.root))  # what it started itself has nobody who would end it
    left = set(processes_of(made.root))
    assert left
    made.start()
    wait_until(lambda: _commands(made.root) == {"sh", "sleep 3001", "sleep 3002"})
    assert not left & set(processes_of(made.root))
    assert "left behind by a gateway that was killed" in made.text()
    made.stop()
    assert processes_of(made.root) == {}


def _commands(root: Path) -> set[str]:
    return {words.split(" -c ")[0] for words in processes_of(root).values() if words}
