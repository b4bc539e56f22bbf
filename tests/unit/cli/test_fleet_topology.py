"""A topology file: what it says, and where it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetrust.cli.fleet.topology import parse_topology
from edgetrust.errors import ConfigError

FILE = Path("plant.yaml")
GOOD = """\
name: plant
gateways:
  - id: Upper
    hostname: upper.local
    devices: [TempSensor]
    gateways:
      - id: Lower
        hostname: 10.0.0.2
        auth: sas
        devices:
          - id: Deep
            auth: sas
            modules: [cleaner]
devices:
  - id: Lonely
    auth: ca
"""


def nested(count: int) -> str:
    text = "name: plant\n"
    for depth in range(count):
        pad = "  " * 2 * depth
        text += f"{pad}gateways:\n{pad}  - id: G{depth + 1}\n{pad}    hostname: g{depth + 1}.local\n"
    return text


def refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_topology(text, FILE)
    return caught.value


def test_members_come_with_parents_first() -> None:
    topology = parse_topology(GOOD, FILE)
    names = [member.id for member in topology.members]
    assert names == ["Upper", "Lonely", "Lower", "TempSensor", "Deep"]
    parents = {member.id: member.parent.id if member.parent else None for member in topology.members}
    assert parents == {"Upper": None, "Lonely": None, "Lower": "Upper", "TempSensor": "Upper", "Deep": "Lower"}
    assert [[one.id for one in level] for level in topology.levels()] == [
        ["Upper", "Lonely"],
        ["Lower", "TempSensor"],
        ["Deep"],
    ]


def test_five_gateways_above_each_other_and_no_sixth() -> None:
    assert len(parse_topology(nested(5), FILE).members) == 5
    problem = refused(nested(6))
    assert problem.reason == "topology-too-deep"
    assert "line 18: G6 would be gateway 6" in problem.message


@pytest.mark.parametrize(
    ("before", "after", "reason", "message", "fix"),
    [
        ("hostname: upper.local", "hostnmae: upper.local", "config-unknown-key", "line 4: unknown key", "'hostname'"),
        ("auth: ca", "auth: cert", "config-wrong-value", "line 16: devices[0].auth", ""),
        ("    hostname: upper.local\n", "", "config-wrong-value", "line 3: gateways[0]: Object missing", ""),
        ("[TempSensor]", "[4711]", "config-wrong-value", "line 5: gateways[0].devices[0]", ""),
        ("id: Deep", "id: Lonely", "topology-wrong", "'Lonely' stands in line", ""),
        ("id: Deep", "id: De/ep", "topology-wrong", "line 11: 'De/ep' cannot name a device", ""),
        ("auth: ca", "auth: ca\n    auth: sas", "config-duplicate-key", "line 17: 'auth' stands here twice", ""),
        ("hostname: 10.0.0.2", "hostname: not a name", "topology-wrong", "neither a host name nor an address", ""),
        ("[cleaner]", "[$edgeHub]", "topology-wrong", "cannot name a module", ""),
        ("name: plant", "name: plant floor", "topology-wrong", "line 1: name takes", ""),
        ("name: plant", "name: plant\ninstall_dir: here", "topology-wrong", "line 2: install_dir must be absolute", ""),
        ("name: plant", "name: plant\nhub: {mqtt_port: 0}", "config-wrong-value", "line 2: hub.mqtt_port", ""),
        ("[TempSensor]", "&all [TempSensor]", "topology-wrong", "line 5: anchors and aliases", "write it out"),
        ("name: plant", "name: [", "config-not-yaml", "not YAML", ""),
        ("name: plant", "name: !!python/name:os.system x", "config-not-yaml", "not YAML", ""),
        ("name: plant", "name: plant\ncertificates: {ca: a, demo: b}", "topology-wrong", "not both", ""),
        ("name: plant", "name: plant\nhub: " + "[" * 70 + "]" * 70, "topology-wrong", "inside each other", ""),
    ],
)  # fmt: skip
def test_each_mistake_has_its_line(before: str, after: str, reason: str, message: str, fix: str) -> None:
    problem = refused(GOOD.replace(before, after, 1))
    assert problem.reason == reason
    assert message in problem.message
    assert fix in problem.fix
    assert problem.exit_code == 2


def test_an_empty_file_has_no_name() -> None:
    assert "required field `name`" in refused("").message
    assert "Expected `object`" in refused("- a\n").message
