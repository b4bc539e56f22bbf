"""Attestation by TPM, with a software TPM behind tpm2-tools: only the enrolled one can use what it is given."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgetrust.limits import TPM_CHALLENGE_SECONDS
from edgetrust.pki.keys import SecretBytes
from edgetrust.pki.tpm import TpmError, parse_public, wrapped_key
from edgetrust.protocol.dps.bodies import TpmKeys
from edgetrust.protocol.sas import SasToken, string_to_sign
from edgetrust.trust.credential import Credential, NoCredential
from edgetrust.trust.registration import SasKeys
from support.enrollments import SCOPE, group, individual, keys, tpm
from support.pki import NOW
from support.provisioning import Service, claims, refused, signed
from support.tpm import Tpm

RESOURCE = f"{SCOPE}%2Fregistrations%2Ftpm-1"


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tpm, TpmKeys]]:
    with Tpm(tmp_path_factory.mktemp("device") / "tpm") as made:
        yield made, TpmKeys(*made.keys())


def token(chip: Tpm) -> Credential:
    expires_at = int(NOW.timestamp()) + 600
    return SasToken(RESOURCE, chip.hmac(string_to_sign(RESOURCE, expires_at)), expires_at, "registration")


async def challenge(service: Service, shown: TpmKeys) -> bytes:
    answer = await service.register(claims("tpm-1", NoCredential()), tpm=shown)
    assert answer.status == 401
    return base64.b64decode(json.loads(answer.body)["authenticationKey"])


async def test_a_device_registers_and_has_a_key_for_its_hub(service: Service, device: tuple[Tpm, TpmKeys]) -> None:
    chip, shown = device
    await service.enroll(individual("tpm-1", tpm(shown.endorsement)))
    given = await challenge(service, shown)
    assert service.hubs["hub"].puts == 0
    await asyncio.to_thread(chip.take, given)
    who = claims("tpm-1", await asyncio.to_thread(token, chip))
    state = await service.assigned(who, tpm=shown)
    assert (state["status"], state["deviceId"]) == ("assigned", "tpm-1")
    await asyncio.to_thread(chip.take, base64.b64decode(state["tpm"]["authenticationKey"]))
    held = service.hubs["hub"].devices["tpm-1"].authentication
    assert isinstance(held, SasKeys)
    wanted = hmac.digest(held.primary.reveal(), b"for the hub", hashlib.sha256)
    assert await asyncio.to_thread(chip.hmac, b"for the hub") == wanted


async def test_another_tpm_gets_nothing(service: Service, device: tuple[Tpm, TpmKeys], tmp_path: Path) -> None:
    chip, shown = device
    await service.enroll(individual("tpm-1", tpm(shown.endorsement, shown.storage_root)))
    with Tpm(tmp_path / "other") as other:
        its = TpmKeys(*await asyncio.to_thread(other.keys))
        for keys_shown in (its, TpmKeys(shown.endorsement, its.storage_root), TpmKeys(its.endorsement, b"x")):
            asked = service.register(claims("tpm-1", NoCredential()), tpm=keys_shown)
            assert (await refused(asked)).code == 401_000
        given = await challenge(service, shown)
        with pytest.raises(AssertionError, match="activatecredential"):
            await asyncio.to_thread(other.take, given)
    assert service.records.refusals == ["tpm-key-mismatch"] * 3
    assert (await refused(service.register(claims("tpm-1", signed("tpm-1"))))).code == 401_000
    await asyncio.to_thread(chip.take, given)
    late = await asyncio.to_thread(token, chip)
    service.clock.advance(TPM_CHALLENGE_SECONDS + 1)
    service.clock.jump(NOW)
    assert (await refused(service.register(claims("tpm-1", late)))).reason == "tpm-key-mismatch"


async def test_who_is_not_enrolled_by_tpm(service: Service, device: tuple[Tpm, TpmKeys]) -> None:
    shown = device[1]
    await service.enroll(individual("tpm-1", keys()), group("fleet", keys()))
    for name, reason in (("tpm-1", "wrong-kind-of-credential"), ("tpm-2", "enrollment-unknown")):
        problem = await refused(service.register(claims(name, NoCredential()), tpm=shown))
        assert (problem.code, problem.reason) == (401_000, reason)


async def test_an_endorsement_key_that_is_none(service: Service) -> None:
    await service.enroll(individual("tpm-1", tpm(b"no key")))
    with pytest.raises(TpmError):
        await service.register(claims("tpm-1", NoCredential()), tpm=TpmKeys(b"no key", b"none"))


def test_public_areas_that_are_none(device: tuple[Tpm, TpmKeys]) -> None:
    right = device[1].endorsement
    wrong = [b"", b"\0", right[:-1], right + b"\0", right[:2] + b"\0\1\0\4" + right[6:], b"\0\4\0\1\0\x0b"]
    for data in (*wrong, *(right[:cut] for cut in range(0, len(right), 7))):
        with pytest.raises(TpmError):
            parse_public(data)
    without_key = parse_public(b"\0\x0e\0\x08\0\x0b\0\0\0\0\0\0\0\x10\0\0")
    with pytest.raises(TpmError):
        wrapped_key(without_key, parse_public(right), SecretBytes(b"k" * 32))
