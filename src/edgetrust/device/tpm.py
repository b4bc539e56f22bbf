"""A device's TPM, by the programs of tpm2-tools: it proves that it is there, and signs with what only it can unlock.

    answers     it is there; nothing in it is touched
    keys        the public areas of its endorsement key and storage root key
    sign_once   with a key that a provisioning service has wrapped for it, which is kept nowhere
    keep        such a key stays in the TPM, at a handle of its own, also without power
    sign        with the key that was kept

Rules (hub specification 14.4; edge specification 4.10). A wrapped key never leaves the TPM. Nothing but contexts, which
only the same TPM can use, is written to the disk, in a directory of this process. Passwords of hierarchies are given to
the programs in memory, since everybody can read their arguments. Which TPM is a TCTI in the words of tpm2-tools. One
use at a time in a process. It must not know tokens or services.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path

from edgetrust.errors import ConfigError, RefusedError, UnavailableError
from edgetrust.limits import TPM_KEY_BYTES, TPM_TOOL_SECONDS
from edgetrust.pki.keys import SecretText

_FIRST_HANDLE = 0x8100_0000  # persistent objects of the owner begin here
_CREDENTIAL_HEAD = struct.pack(">II", 0xBADC_C0DE, 1)  # how tpm2-tools mark a credential file
_PARTS = 6
_turn = threading.Lock()  # a TPM does one thing at a time, whoever asks


@dataclass(frozen=True, slots=True)
class TpmPlace:
    """Which TPM, where its key is kept, and what its hierarchies are protected with."""

    tcti: str
    key_index: int
    owner: SecretText
    endorsement: SecretText


class Tpm:
    """The TPM of this machine. Every method runs programs for a while; all raise UnavailableError, ConfigError."""

    def __init__(self, place: TpmPlace) -> None:
        self._place = place
        self._handle = hex(_FIRST_HANDLE + place.key_index)
        self._folder: Path | None = None

    def answers(self) -> None:
        """Ask for its properties. Raises UnavailableError when it is not there."""
        with _turn:
            self._run("getcap", "properties-fixed")

    def keys(self) -> tuple[bytes, bytes]:
        """The public areas of the endorsement key and of the storage root key."""
        with _turn:
            folder = self._prepared()
            return (folder / "ek.pub").read_bytes(), (folder / "srk.pub").read_bytes()

    def sign_once(self, wrapped: bytes, text: bytes) -> bytes:
        """HMAC-SHA256 with the key in `wrapped`. Raises RefusedError when it was wrapped for another TPM."""
        with _turn:
            self._unlock(wrapped)
            return self._hmac("key.ctx", text)

    def keep(self, wrapped: bytes) -> None:
        """Keep the key in `wrapped`, in the place of the one before. Raises RefusedError."""
        with _turn:
            self._unlock(wrapped)
            owner = _given("-P", self._place.owner)
            if self._handle in self._run("getcap", "handles-persistent").decode():
                self._run("evictcontrol", "-C", "o", *owner, "-c", self._handle)
            self._run("evictcontrol", "-C", "o", *owner, "-c", "key.ctx", self._handle)
            self._run("flushcontext", "-t")

    def sign(self, text: bytes) -> bytes:
        """HMAC-SHA256 with the key that was kept."""
        with _turn:
            self._prepared()
            return self._hmac(self._handle, text)

    # Programs -------------------------------------------------------------------------------------------------------

    def _prepared(self) -> Path:
        """The directory, with the contexts of both keys."""
        if self._folder is not None:
            return self._folder
        folder = self._folder = Path(tempfile.mkdtemp(prefix="edgetrust-tpm-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)  # at the latest when the process ends
        try:
            self._run("flushcontext", "-t")  # a TPM without resource manager has room for three objects
            self._run(
                *("createek", "-G", "rsa", "-c", "ek.ctx", "-u", "ek.pub", "-f", "tss"),
                *_given("-P", self._place.endorsement),
                *_given("-w", self._place.owner),
            )
            self._run(
                "createprimary",
                "-C",
                "o",
                *_given("-P", self._place.owner),
                "-G",
                "rsa2048",
                "-g",
                "sha256",
                "-c",
                "srk.ctx",
            )
            self._run("readpublic", "-c", "srk.ctx", "-o", "srk.pub", "-f", "tss")
            self._run("flushcontext", "-t")
        except BaseException:
            self._folder = None
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder

    def _unlock(self, wrapped: bytes) -> None:
        """Activate the credential, import the key below the storage root key, and load it."""
        folder = self._prepared()
        blob, secret, duplicate, _, public, _ = _parts(wrapped)
        (folder / "credential").write_bytes(_CREDENTIAL_HEAD + _sized(blob) + _sized(secret))
        (folder / "key.pub").write_bytes(_sized(public))
        (folder / "key.dup").write_bytes(_sized(duplicate))
        (folder / "seed").write_bytes(_sized(b""))
        self._run("startauthsession", "--policy-session", "-S", "session.ctx")
        try:
            endorsement = _given("", self._place.endorsement)[1:]
            self._run("policysecret", "-S", "session.ctx", "-c", "e", *endorsement)
            self._run(
                *("activatecredential", "-c", "srk.ctx", "-C", "ek.ctx", "-i", "credential", "-o", "inner"),
                *("-P", "session:session.ctx"),
            )
        finally:
            self._run("flushcontext", "session.ctx")
        self._run(
            *("import", "-C", "srk.ctx", "-u", "key.pub", "-i", "key.dup", "-r", "key.priv"),
            *("-k", "inner", "-s", "seed"),
        )
        (folder / "inner").unlink()
        self._run("flushcontext", "-t")
        self._run("load", "-C", "srk.ctx", "-u", "key.pub", "-r", "key.priv", "-c", "key.ctx")
        self._run("flushcontext", "-t")

    def _hmac(self, key: str, text: bytes) -> bytes:
        (self._prepared() / "text").write_bytes(text)
        signature = self._run("hmac", "-c", key, "-g", "sha256", "--hex", "text")
        self._run("flushcontext", "-t")
        return bytes.fromhex(signature.decode().strip())

    def _run(self, name: str, *arguments: str | SecretText) -> bytes:
        passwords = {one: _in_memory(one) for one in arguments if isinstance(one, SecretText)}
        words = [f"file:/dev/fd/{passwords[one]}" if isinstance(one, SecretText) else one for one in arguments]
        try:
            done = subprocess.run(
                [f"tpm2_{name}", *words],
                pass_fds=tuple(passwords.values()),
                cwd=self._folder,
                capture_output=True,
                timeout=TPM_TOOL_SECONDS,
                check=False,
                env={**os.environ, "TPM2TOOLS_TCTI": self._place.tcti},
            )
        except FileNotFoundError as problem:
            raise ConfigError(
                f"the program tpm2_{name} is not installed", reason="tpm-tools-missing", fix="apt install tpm2-tools"
            ) from problem
        except subprocess.TimeoutExpired as problem:
            raise UnavailableError(f"the TPM does not answer tpm2_{name}", reason="tpm-failed") from problem
        finally:
            for descriptor in passwords.values():
                os.close(descriptor)
        if done.returncode == 0:
            return done.stdout
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = next((line for line in said if "ERROR" in line), "no reason given")[:300]
        if name == "activatecredential":
            raise RefusedError(f"what the service sent is for another TPM: {why}", reason="tpm-key-mismatch")
        raise UnavailableError(
            f"the TPM at {self._place.tcti} refuses tpm2_{name}: {why}",
            reason="tpm-failed",
            fix="compare: tpm2_getcap properties-fixed, with TPM2TOOLS_TCTI set to [tpm] tcti",
        )


def _given(option: str, password: SecretText) -> list[str | SecretText]:
    """An option with a password; nothing when there is none."""
    return [option, password] if password.reveal() else []


def _in_memory(password: SecretText) -> int:
    """The descriptor of a file that is on no disk and has no name; the caller closes it."""
    descriptor = os.memfd_create("password")
    os.write(descriptor, f"str:{password.reveal()}".encode())  # whatever it begins with, it is no other form
    return descriptor


def _parts(wrapped: bytes) -> list[bytes]:
    """What a service wraps for a TPM: credential, secret, duplicate, seed, public area, rest. Raises RefusedError."""
    parts, at = [], 0
    while at < len(wrapped):
        size = int.from_bytes(wrapped[at : at + 2], "big")
        parts.append(wrapped[at + 2 : at + 2 + size])
        at += 2 + size
    if at != len(wrapped) or len(parts) != _PARTS or len(wrapped) > _PARTS * TPM_KEY_BYTES:
        raise RefusedError("what the service sent is no key for a TPM", reason="tpm-key-malformed")
    return parts


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data
