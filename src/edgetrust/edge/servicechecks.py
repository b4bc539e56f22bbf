"""Checks of a gateway's services: that each can read what it has to, that it answers, and that it is of this version.

The services may be processes of four users, so what one can read another cannot. As which user a service runs is seen
by the owner of its socket, so a service that does not run is not judged.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from edgetrust import __version__
from edgetrust.device.tpm import Tpm
from edgetrust.edge.checking import Bench, Check, FoundError, IgnoredError, SkippedError
from edgetrust.edge.credentials import DeviceTpm
from edgetrust.limits import CHECK_SECONDS
from edgetrust.pki.keys import SecretText
from edgetrust.transport.unix import address_of

_API = "api-version=2022-08-03"
_OK = 200
MANAGEMENT, WORKLOAD = "run/iotedge/mgmt.sock", "run/iotedge/workload.sock"


# What each reads ----------------------------------------------------------------------------------------------------


def configured(service: str, socket: str) -> Check:
    """Whether the user that a service runs as can read its part of the configuration."""

    async def check(bench: Bench) -> None:
        settings, place = bench.known, bench.layout.root / socket
        if not place.exists():
            raise SkippedError(f"{service} does not run, so that its user is not known")
        uid = place.stat().st_uid
        files = [bench.config]
        if service == "keyd":
            files += [path for path in settings.key_places(files=True).values() if isinstance(path, Path)]
        if service == "certd":
            files += [path for path in settings.serving.preloaded.values() if isinstance(path, Path) and path.exists()]
        for path in files:
            if not await asyncio.to_thread(_may_read, path.absolute(), uid):
                raise FoundError(
                    f"{service} runs as {_name(uid)}, who may not read {path}",
                    f"chgrp to a group of {_name(uid)}, and chmod g+r; directories above it need g+x",
                )

    return check


def _may_read(path: Path, uid: int) -> bool:
    """Whether the mode of a file and of the directories above it let a user read it."""
    groups = _groups(uid)
    above = all(_permits(folder, uid, groups, 1) for folder in path.parents)
    return uid == 0 or (above and _permits(path, uid, groups, 4))


def _permits(path: Path, uid: int, groups: frozenset[int], wanted: int) -> bool:
    try:
        found = path.stat()
    except PermissionError:
        return False
    shift = 6 if found.st_uid == uid else 3 if found.st_gid in groups else 0
    return bool(found.st_mode >> shift & wanted)


def _groups(uid: int) -> frozenset[int]:
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return frozenset()
    return frozenset(os.getgrouplist(user.pw_name, user.pw_gid))


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


# What answers -------------------------------------------------------------------------------------------------------


def answers(socket: str, path: str = "/", *, ok: bool = False) -> Check:
    """Whether a service answers at all; with `ok`, whether it answers 200."""

    async def check(bench: Bench) -> None:
        status, _ = await _asked(bench, socket, path)
        if ok and status != _OK:
            raise FoundError(f"{bench.layout.root / socket} answers {status}", "run this as the user of the gateway")

    return check


async def same_version(bench: Bench) -> None:
    """Whether the gateway that runs is the one that is installed."""
    if not (bench.layout.root / MANAGEMENT).exists():
        raise SkippedError("the gateway does not run")
    _, text = await _asked(bench, MANAGEMENT, "/systeminfo")
    found: Any = json.loads(text or "{}")
    runs = found.get("version") if isinstance(found, dict) else None
    if runs != __version__:
        raise FoundError(
            f"the gateway that runs is of version {runs or 'unknown'}, and {__version__} is installed",
            "restart the gateway",
            warning=True,
        )


async def _asked(bench: Bench, socket: str, path: str) -> tuple[int, str]:
    place = bench.layout.root / socket
    if not place.exists():
        raise FoundError(f"{place} does not exist: no gateway runs below {bench.layout.root}", "edgetrust edge serve")
    timeout = aiohttp.ClientTimeout(total=CHECK_SECONDS)
    try:
        with address_of(place) as address:
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(address), timeout=timeout) as session,
                session.get(f"http://localhost{path}?{_API}") as response,
            ):
                return response.status, await response.text()
    except (aiohttp.ClientError, TimeoutError) as problem:
        raise FoundError(f"{place} does not answer: {problem}", "restart the gateway") from problem


async def tpm_answers(bench: Bench) -> None:
    """Whether the TPM that attests is there."""
    credential = bench.known.credential
    if not isinstance(credential, DeviceTpm):
        raise IgnoredError("no TPM attests")
    await asyncio.to_thread(Tpm(replace(credential.place, owner=SecretText(""), endorsement=SecretText(""))).answers)
