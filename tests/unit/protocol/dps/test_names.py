"""Registration identifiers, user names, and what tokens of provisioning cover."""

from __future__ import annotations

import pytest

from edgetrust.protocol.dps.names import (
    DpsUserNameError,
    covers_registration,
    is_dps_user_name,
    parse_dps_user_name,
    valid_registration_id,
)
from edgetrust.protocol.sas import decode_key, derive_key, parse_token, sign, signature_matches

KEY = "MDEyMzQ1Njc4OWFiY2RlZg=="  # hub specification 19
GROUP_A = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="
GROUP_B = "oiK77Oy7rBw8YB6IS6ukRChAw+Yq6GC61RMrPLSTiOOtdI+XDu0LmLuNm11p+qv2I+adqGUdZHm46zXAQdZoOA=="


@pytest.mark.parametrize("text", ["a", "A", "7", "-", "a" * 128, "sn-007:8.9_a-", "a.b", "...a", "-" * 128])
def test_registration_identifiers(text: str) -> None:
    assert valid_registration_id(text)


@pytest.mark.parametrize("text", ["", "a" * 129, "a.", "a_", "a:", ".", "a b", "a/b", "ä", "a$", "a\n", "a\0", " a"])
def test_no_registration_identifiers(text: str) -> None:
    assert not valid_registration_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "0ne001/registrations/Reg1/api-version=2019-03-31&ClientVersion=azure-iot-device%2F2.14",
        "0ne001/registrations/Reg1/?api-version=2019-03-31",
        "0ne001/registrations/Reg1/api-version=2019-03-31",
        "0ne001/registrations/Reg1/ClientVersion=x&api-version=2025-07-01-preview",
    ],
)
def test_user_names(text: str) -> None:
    name = parse_dps_user_name(text)
    assert (name.id_scope, name.registration_id) == ("0ne001", "Reg1")
    assert is_dps_user_name(text, "0ne001")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0ne001",
        "0ne001/devices/Reg1/api-version=2019-03-31",
        "/registrations/Reg1/api-version=2019-03-31",
        "0ne001/registrations//api-version=2019-03-31",
        "0ne001/registrations/Reg1",
        "0ne001/registrations/Reg1/api-version=",
        "0ne001/registrations/Reg1/api-version=newest",
        "0ne001/registrations/R%20g/api-version=2019-03-31",
        "0ne001/registrations/" + "R" * 5000 + "/api-version=2019-03-31",
    ],
)
def test_no_user_names(text: str) -> None:
    with pytest.raises(DpsUserNameError) as raised:
        parse_dps_user_name(text)
    assert raised.value.reason == "user-name-malformed"


def test_whose_user_name_it_is() -> None:
    assert is_dps_user_name("my-scope/registrations/r/api-version=2019-03-31", "my-scope")
    assert is_dps_user_name("0neFF/registrations/r/api-version=2019-03-31", "my-scope")  # another scope, but a scope
    assert not is_dps_user_name("hub.example/registrations/m1/?api-version=2021-04-12", "my-scope")
    assert not is_dps_user_name("hub.example/d1/?api-version=2021-04-12", "my-scope")


@pytest.mark.parametrize(
    "resource",
    [
        "0ne001/registrations/Reg1",
        "0ne001%2Fregistrations%2FReg1",
        "0ne001%2fregistrations%2freg1",
        "0NE001%2FREGISTRATIONS%2FREG1",
        "0ne001%252Fregistrations%252FReg1".replace("%252F", "%2F"),
    ],
)
def test_a_token_covers_its_registration(resource: str) -> None:
    assert covers_registration(parse_token(sign(b"k" * 16, resource, 2_000_000_000)), "0ne001", "Reg1")


@pytest.mark.parametrize(
    "resource",
    ["0ne001/registrations/Reg2", "0ne001/registrations", "0ne002/registrations/Reg1", "0ne001/devices/Reg1", "Reg1"],
)
def test_a_token_covers_nothing_else(resource: str) -> None:
    assert not covers_registration(parse_token(sign(b"k" * 16, resource, 2_000_000_000)), "0ne001", "Reg1")


@pytest.mark.parametrize(
    ("resource", "expires_at", "signature"),
    [
        ("0ne001/registrations/Reg1", 1795469469, "zuNk1OvOeEgSboNn5kLkreRmRd40kNooExGpeKhqsc0="),
        ("0ne001%2Fregistrations%2FReg1", 1795469200, "+zR0wZP59RfKin2fZNWozq1IOTPlJd17bC26fU7ph5k="),
    ],
)
def test_signatures_that_the_sdks_made(resource: str, expires_at: int, signature: str) -> None:
    text = f"SharedAccessSignature sr={resource}&sig={signature.replace('+', '%2B')}&se={expires_at}&skn=registration"
    token = parse_token(text)
    assert signature_matches(token, decode_key(KEY))
    assert covers_registration(token, "0ne001", "Reg1")


@pytest.mark.parametrize(
    ("group", "registration_id", "device"),
    [
        (GROUP_A, "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6", "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="),
        (GROUP_B, "breakroom499-contoso-tstrsd-007", "JC8F96eayuQwwz+PkE7IzjH2lIAjCUnAa61tDigBnSs="),
        (GROUP_B, "mainbuilding167-contoso-hpsd-088", "6uejA9PfkQgmYylj8Zerp3kcbeVrGZ172YLa7VSnJzg="),
    ],
)
def test_keys_derived_from_a_groups(group: str, registration_id: str, device: str) -> None:
    assert derive_key(decode_key(group), registration_id) == decode_key(device)
