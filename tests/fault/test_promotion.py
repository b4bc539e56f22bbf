"""Killed with -9 at any step of a promotion: certificate and key always belong together, and the next start goes on.

Every event that Python audits below the folder (a file opened, renamed, linked, removed, a directory made) is a step;
a child is killed before the first, before the second, and so on, until one gets through.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgetrust.device.identity import IdentityFolder
from edgetrust.edge.files import EDGE_CA, Layout
from edgetrust.edge.keyd import open_keys
from edgetrust.edge.pairs import CertificateStore, Pairs, temporary
from edgetrust.pki.chain import key_matches
from support.pki import Pki

_DRIVER = """
import os, signal, sys
from pathlib import Path
from edgetrust.device.identity import IdentityFolder
from edgetrust.pki.chain import Chain
from edgetrust.pki.softkeys import load_key_file

base, material, steps = Path(sys.argv[1]), Path(sys.argv[2]), 0
chain, key = Chain.from_pem((material / "c.pem").read_bytes()), load_key_file(material / "k.pem")

def run(folder, limit):
    count = 0
    def watch(event, arguments):
        nonlocal count
        if event in ("open", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.mkdir", "os.chmod"):
            if any(isinstance(one, (str, bytes, Path)) and str(folder) in str(one) for one in arguments):
                count += 1
                if count == limit:
                    os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)
    held = IdentityFolder(folder)
    held.recover()
    held.begin(key)
    held.complete(chain)
    held.promote()

for limit in range(1, 1000):
    folder = base / str(limit)
    os.system(f"cp -a {material / 'start'} {folder}")
    child = os.fork()
    if child == 0:
        run(folder, limit)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        print(limit)
        break
"""


@pytest.mark.parametrize("enrolled_before", [True, False])
def test_killed_at_every_step_of_a_promotion(tmp_path: Path, enrolled_before: bool) -> None:
    pki, material, runs = Pki(), tmp_path / "material", tmp_path / "runs"
    runs.mkdir()
    start = IdentityFolder(material / "start")
    start.directory.mkdir(parents=True)
    old, new = pki.device("sensor", key_label="old"), pki.device("sensor", key_label="new")
    if enrolled_before:
        start.begin(old.key)
        start.complete(old.chain)
        start.promote()
    (material / "c.pem").write_text(new.chain.pem())
    (material / "k.pem").write_bytes(new.key_pem())

    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, str(runs), str(material)],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    steps = int(done.stdout)
    assert steps > 10
    seen = set()
    for limit in range(1, steps + 1):
        folder = IdentityFolder(runs / str(limit))
        seen.add(_in_use(folder, old.chain, new.chain))
        folder.recover()
        after = _in_use(folder, old.chain, new.chain)
        seen.add(after)
        folder.begin(new.key)
        folder.complete(new.chain)
        folder.promote()
        assert _in_use(folder, old.chain, new.chain) == "new"
        names = {entry.name for entry in folder.directory.iterdir()}
        assert {name for name in names if name.startswith(("generation", "candidate"))} == {
            str(folder.directory.joinpath("current").readlink())
        }
    assert seen == ({"old", "new"} if enrolled_before else {"none", "new"})


def _in_use(folder: IdentityFolder, old: object, new: object) -> str:
    """What programs read through the links: a whole pair that fits, or nothing."""
    pair = folder.current()
    if pair is None:
        assert not folder.certificate_file.exists()
        assert not folder.key_file.exists()
        return "none"
    key_matches(pair.chain, pair.key)
    if folder.certificate_file.exists():
        assert folder.certificate_file.read_text() == pair.chain.pem()
        assert folder.key_file.exists()
    return {old: "old", new: "new"}[pair.chain]


# A gateway's certificates and keys, in the directories of the real services -------------------------------------------

_GATEWAY_DRIVER = """
import os, signal, sys
from pathlib import Path
from edgetrust.edge.files import Layout, key_file_name
from edgetrust.edge.pairs import CertificateStore, Pairs
from edgetrust.pki.chain import Chain
from edgetrust.pki.keys import KeyAlgorithm
from edgetrust.pki.softkeys import FileKeyStore, load_key_file

base, material = Path(sys.argv[1]), Path(sys.argv[2])
chain, key = Chain.from_pem((material / "c.pem").read_bytes()), load_key_file(material / "k.pem")

class Given(FileKeyStore):
    def create(self, key_id, algorithm):
        return self.import_pem(key_id, key.private_pem())

def run(root, limit):
    count = 0
    def watch(event, arguments):
        nonlocal count
        if event in ("open", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.mkdir", "os.chmod"):
            if any(isinstance(one, (str, bytes, Path)) and str(root) in str(one) for one in arguments):
                count += 1
                if count == limit:
                    os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)
    layout = Layout(root)
    pairs = Pairs(Given(layout.keys, key_file_name), CertificateStore(layout.certificates))
    pairs.recover("aziot-edged-ca")
    pairs.new_key("aziot-edged-ca", KeyAlgorithm.P256)
    pairs.promote("aziot-edged-ca", chain)

for limit in range(1, 1000):
    root = base / str(limit)
    os.system(f"cp -a {material / 'start'} {root}")
    child = os.fork()
    if child == 0:
        run(root, limit)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        print(limit)
        break
"""


def test_killed_at_every_step_of_a_gateways_promotion(tmp_path: Path) -> None:
    pki, material, runs = Pki(), tmp_path / "material", tmp_path / "runs"
    runs.mkdir()
    start = Layout(material / "start")
    start.make()
    old, new = pki.authority("edge ca", key_label="old ca"), pki.authority("edge ca", key_label="new ca")
    open_keys(start).import_pem(EDGE_CA, old.key.private_pem())
    CertificateStore(start.certificates).save(EDGE_CA, old.chain)
    (material / "c.pem").write_text(new.chain.pem())
    (material / "k.pem").write_bytes(new.key_pem())

    done = subprocess.run(
        [sys.executable, "-c", _GATEWAY_DRIVER, str(runs), str(material)],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    steps, seen = int(done.stdout), set()
    assert steps > 10
    for limit in range(1, steps + 1):
        layout = Layout(runs / str(limit))
        keys, store = open_keys(layout), CertificateStore(layout.certificates)
        Pairs(keys, store).recover(EDGE_CA)
        chain = store.load(EDGE_CA)
        assert chain is not None
        key_matches(chain, keys.load(EDGE_CA))
        seen.add({old.chain: "old", new.chain: "new"}[chain])
        assert store.load(temporary(EDGE_CA)) is None
        assert chain == old.chain or not keys.exists(temporary(EDGE_CA)), "a key without certificate waits for one"
    assert seen == {"old", "new"}
