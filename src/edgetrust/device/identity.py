"""The identity of a device on disk: a certificate and its key that change together, in one step.

    DIR/cert.pem -> current/cert.pem      what programs are given; so is key.pem
    DIR/current  -> generation-3          renamed over: the one step
    DIR/generation-3/                     what is in use
    DIR/candidate/                        a new key, later with its certificate; not in use and not yet proven

Rules. A pair is promoted by two renames: the candidate becomes the next generation, which says that it was proven;
then `current` points to it. Whatever is cut off between two steps, `cert.pem` and `key.pem` belong together, and
`recover` finishes or forgets the rest. Private files are born 0600 in directories of mode 0700. Nothing in use is
changed or deleted before its successor is in use.

It must not know how a certificate is obtained, nor whether it is any good.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from edgetrust.errors import ConfigError, IntegrityError
from edgetrust.limits import PEM_BYTES
from edgetrust.pki.chain import Chain, ChainError, key_matches
from edgetrust.pki.keys import SecretBytes
from edgetrust.pki.softkeys import SoftKey, write_private, write_public

CERTIFICATE, KEY = "cert.pem", "key.pem"
_CANDIDATE, _CURRENT = "candidate", "current"
_GENERATION = re.compile(r"generation-([1-9][0-9]{0,8})")
_PRIVATE = 0o700


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate, with the chain above it, and its key."""

    chain: Chain
    key: SoftKey


class IdentityFolder:
    """One device's identity below `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()

    @property
    def certificate_file(self) -> Path:
        """Where programs find the certificate; the key lies beside it."""
        return self.directory / CERTIFICATE

    @property
    def key_file(self) -> Path:
        return self.directory / KEY

    # Reading --------------------------------------------------------------------------------------------------------

    def current(self) -> Pair | None:
        """What is in use; None before the first enrolment. Raises ConfigError, IntegrityError."""
        return _read_pair(self.directory / _CURRENT)

    def candidate(self) -> Pair | None:
        """A complete pair that waits for its proof. What cannot be used is forgotten."""
        try:
            return _read_pair(self.directory / _CANDIDATE)
        except (ConfigError, IntegrityError):
            self.discard()
            return None

    # Changing -------------------------------------------------------------------------------------------------------

    def begin(self, key: SoftKey) -> None:
        """Make a candidate that has a key and no certificate yet. Raises ConfigError."""
        self.discard()
        _private_directory(self.directory)
        _private_directory(self.directory / _CANDIDATE)
        write_private(self.directory / _CANDIDATE / KEY, key.private_pem().reveal())

    def complete(self, chain: Chain) -> None:
        """Give the candidate its certificate."""
        write_public(self.directory / _CANDIDATE / CERTIFICATE, chain.pem().encode())

    def discard(self) -> None:
        """Forget the candidate."""
        shutil.rmtree(self.directory / _CANDIDATE, ignore_errors=True)

    def promote(self) -> None:
        """Put the candidate, which was proven, in the place of what is in use."""
        following = max(self._generations(), default=0) + 1
        (self.directory / _CANDIDATE).rename(self.directory / f"generation-{following}")
        _flush(self.directory)
        self.recover()

    def recover(self) -> None:
        """Finish what was cut off: what was proven is used, what is not used any more goes."""
        generations = sorted(self._generations())
        if not generations:
            return
        newest = f"generation-{generations[-1]}"
        self._link(CERTIFICATE, f"{_CURRENT}/{CERTIFICATE}")
        self._link(KEY, f"{_CURRENT}/{KEY}")
        self._link(_CURRENT, newest)
        _flush(self.directory)
        for old in generations[:-1]:
            shutil.rmtree(self.directory / f"generation-{old}", ignore_errors=True)

    def _generations(self) -> list[int]:
        try:
            names = [entry.name for entry in self.directory.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as problem:
            raise ConfigError(f"{self.directory}: {problem.strerror}", reason="identity-unreadable") from problem
        return [int(match[1]) for name in names if (match := _GENERATION.fullmatch(name))]

    def _link(self, name: str, target: str) -> None:
        """A symbolic link that is there afterwards, whatever was there before, and at no time missing."""
        link = self.directory / name
        if link.is_symlink() and link.readlink() == Path(target):
            return
        beside = self.directory / f".{name}.new"
        beside.unlink(missing_ok=True)
        beside.symlink_to(target)
        beside.replace(link)


def _read_pair(directory: Path) -> Pair | None:
    key, certificate = _read(directory / KEY), _read(directory / CERTIFICATE)
    if key is None or certificate is None:
        return None
    try:
        pair = Pair(Chain.from_pem(certificate), SoftKey.from_pem(str(directory / KEY), SecretBytes(key)))
    except ChainError as problem:
        message = f"{directory / CERTIFICATE}: {problem.message}"
        raise IntegrityError(message, reason=problem.reason, fix=f"enrol anew: remove {directory}") from problem
    key_matches(pair.chain, pair.key)
    return pair


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(PEM_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise ConfigError(f"{path} cannot be read: {problem.strerror}", reason="identity-unreadable") from problem


def _private_directory(path: Path) -> None:
    try:
        path.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        path.chmod(_PRIVATE)
    except OSError as problem:
        raise ConfigError(f"{path} cannot be made: {problem.strerror}", reason="identity-unwritable") from problem


def _flush(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
