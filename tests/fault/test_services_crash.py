"""Killed with -9 at any step of what the gateway's services write: it starts again, all pairs match, no key changed.

See `support.services_life` for the steps. Afterwards it is looked at twice: at once, where whatever is there must be
whole, and after the next start.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from edgetrust.clock import ManualClock
from edgetrust.edge.certd import GatewayCertificates
from edgetrust.edge.files import DEVICE_ID, EDGE_CA, MASTER_ENCRYPTION_KEY, MASTER_IDENTITY_KEY, Layout
from edgetrust.edge.handles import VALIDATION_KEY
from edgetrust.edge.keyd import ensure_secret, open_keys
from edgetrust.edge.pairs import CertificateStore, temporary
from edgetrust.pki.chain import key_matches
from edgetrust.pki.softkeys import load_key_file
from support.pki import NOW, Pki
from support.services_life import RENEWED_AFTER, Given, settings_for

SECRETS = (VALIDATION_KEY, MASTER_ENCRYPTION_KEY, MASTER_IDENTITY_KEY)


def write_material(folder: Path) -> None:
    pki = Pki()
    for name, label in (("id", "identity"), ("id2", "next identity")):
        holder = pki.device("EdgeGateway", key_label=label)
        (folder / f"{name}.pem").write_text(holder.chain.pem())
        (folder / f"{name}.key").write_bytes(holder.key_pem())
    for number in range(2):
        holder = pki.authority("edge ca", key_label=f"edge ca {number}")
        (folder / f"ca{number}.key").write_bytes(holder.key_pem())
    (folder / "server.key").write_bytes(pki.device("server", key_label="server").key_pem())


def test_killed_at_every_write_of_the_services(tmp_path: Path) -> None:
    material, runs = tmp_path / "material", tmp_path / "runs"
    material.mkdir()
    runs.mkdir()
    write_material(material)
    done = subprocess.run(
        [sys.executable, "-m", "support.services_life", str(runs), str(material)],
        capture_output=True, text=True, timeout=300, check=False, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    steps = int(done.stdout.split()[-1])
    assert steps > 60
    for limit in range(1, steps + 1):
        look(runs / str(limit), material)


def look(root: Path, material: Path) -> None:
    layout = Layout(root)
    before = _secrets(layout) if layout.keys.is_dir() else {}
    layout.make()
    made = [load_key_file(material / f"ca{number}.key") for number in range(2)]
    keys, clock = Given(layout.keys, made), ManualClock(NOW + RENEWED_AFTER)
    certificates = GatewayCertificates(layout, keys, settings_for(material), clock)
    certificates.prepare()
    store = CertificateStore(layout.certificates)
    for identifier in (DEVICE_ID, EDGE_CA):
        chain = store.load(identifier)
        assert chain is not None, root
        key_matches(chain, keys.load(identifier))
        assert store.load(temporary(identifier)) is None
        assert not keys.exists(temporary(identifier))
    assert certificates.issuer.certificate.not_valid_after_utc > clock.now()
    for path in (*layout.certificates.glob("*.cer"), *layout.keys.glob("*.key")):
        assert path.stat().st_size > 0, path
        assert path.stat().st_mode & 0o777 == (0o600 if path.suffix == ".key" else 0o644)
    for name in SECRETS:
        ensure_secret(keys, name)
    assert {name: value for name, value in _secrets(layout).items() if name in before} == before
    for path in (layout.identities / "modules").rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            assert json.loads(path.read_bytes())["generationId"] == "638"
    if layout.status.exists():
        assert json.loads(layout.status.read_bytes()) == {"pid": 1}


def _secrets(layout: Layout) -> dict[str, bytes]:
    keys = open_keys(layout)
    return {name: keys.load_secret(name).reveal() for name in SECRETS if keys.exists(name)}
