"""File names bit by bit, modes, and errors that name the user and the command."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from edgetrust.edge.files import (
    Layout,
    certificate_file_name,
    file_stem,
    key_file_name,
    make_private_directory,
    read_file,
    server_certificate_id,
)
from edgetrust.errors import ConfigError

KNOWN = {
    "aziot-edged-ca": "aziotedgedca-86f154be7ff14480027f0d00c59c223db6d9e4ab0b559fc523cca36a7c973d6d",
    "device-id": "deviceid-bd732105ef89cf8edd2606a5309c8a26b7b5599a4e124a0fe6199b6b2f60e655",
    "aziot-edged/module/$edgeHub:637911101449272999:server": "aziotedgedmoduleedgeHub637911101449272999server-"
    "a0407493b6b50ee07b3fedbbb9d181e7bb5f6f52c1d071114c361aca628daa92",
    "aziot_identityd_master_id": "aziotidentitydmasterid-"
    "91b92c2c06a5a5dda5fbc9c48b4d428d930b9c1b8b2956a1044ccbc7a266afc9",
    "iotedge_master_encryption_id": "iotedgemasterencryptionid-"
    "9088210ae5de3106f57307359ce517da740f93ba17f4312f770c9383ad85b64f",
}


@pytest.mark.parametrize(("identifier", "stem"), KNOWN.items())
def test_names_are_those_of_the_real_runtime(identifier: str, stem: str) -> None:
    assert file_stem(identifier) == stem
    assert key_file_name(identifier) == f"{stem}.key"
    assert certificate_file_name(identifier) == f"{stem}.cer"


def test_the_hash_is_that_of_sha256sum() -> None:
    printed = subprocess.run(["sha256sum"], input=b"aziot-edged-ca", capture_output=True, check=True).stdout
    assert file_stem("aziot-edged-ca").endswith(printed.split()[0].decode())


def test_the_dollar_of_a_module_is_kept_or_stripped() -> None:
    kept = server_certificate_id("$edgeHub", "637911101449272999", keep_dollar=True)
    stripped = server_certificate_id("$edgeHub", "637911101449272999", keep_dollar=False)
    assert kept == "aziot-edged/module/$edgeHub:637911101449272999:server"
    assert file_stem(stripped).endswith("-5ed5e7756c32169fbcfca8c1fdb297e40ada08597e40ce8f097c286efd24874c")


def test_directories_are_for_the_owner_only(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "root")
    layout.make()
    layout.make()
    for path in (layout.keys, layout.certificates, layout.identities, layout.own, layout.keys.parent):
        assert path.stat().st_mode & 0o777 == 0o700
    assert layout.keys == tmp_path / "root/var/lib/aziot/keyd/keys"
    assert layout.certificates == tmp_path / "root/var/lib/aziot/certd/certs"


def test_a_module_backup_is_where_identityd_keeps_it(tmp_path: Path) -> None:
    path = Layout(tmp_path).module_backup("hub", "dev", "$edgeHub")
    assert path.parent.parent == tmp_path / "var/lib/aziot/identityd/modules"
    assert path.name == file_stem("$edgeHub")


def test_reading_what_is_not_there_or_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_file(tmp_path / "x")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_file(tmp_path)
    (tmp_path / "big").write_bytes(bytes(300_000))
    with pytest.raises(ConfigError, match="more than"):
        read_file(tmp_path / "big")


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        make_private_directory(tmp_path / "file" / "below")


_NOBODY = 65_534


def as_nobody(*words: str) -> str:
    """Run one function of the module as a user who owns nothing, and return its error."""
    code = f"""
import os, sys
from pathlib import Path
from edgetrust.edge.files import make_private_directory, read_file
from edgetrust.errors import ConfigError
if os.geteuid() == 0:
    os.setgroups([]); os.setgid({_NOBODY}); os.setuid({_NOBODY})
try:
    {words[0]}(Path({words[1]!r}))
except ConfigError as problem:
    print(problem.message, "|", problem.fix)
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_an_unreadable_file_names_the_user_and_the_command() -> None:
    with tempfile.TemporaryDirectory() as open_to_all:
        _unreadable(Path(open_to_all))


def _unreadable(folder: Path) -> None:
    folder.chmod(0o755)
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    (closed / "key.pem").write_text("secret")
    secret = folder / "key.pem"
    secret.write_text("secret")
    secret.chmod(0o000)
    said = as_nobody("read_file", str(secret))
    name = pwd.getpwuid(_NOBODY if os.geteuid() == 0 else os.geteuid()).pw_name
    assert said.startswith(f"user {name} may not use {secret} | ")
    assert str(secret) in said.split("|")[1]
    said = as_nobody("read_file", str(closed / "key.pem"))
    assert str(closed) in said.split("|")[1]
    assert "may not use" in as_nobody("make_private_directory", str(closed / "new"))
