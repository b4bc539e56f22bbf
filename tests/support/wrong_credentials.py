"""Devices with wrong credentials, each wrong in one way, and the reason that goes on record."""

from __future__ import annotations

from collections.abc import Callable

from support.pki import EXPIRED, NOT_YET_VALID, SERVER_ONLY, Holder, Pki, self_signed
from support.processes import Contoso, Device

WRONG_KEY = "d3Jvbmcga2V5LCBidXQgYXMgbG9uZyBhcyBhIHJlYWwgb25l"
BY_CA = {"authentication": {"type": "certificateAuthority"}}
Case = Callable[[Contoso, str], Device]


def key_of(contoso: Contoso, device: str, module: str | None = None, **body: object) -> str:
    registered = contoso.register(device, module, **body)
    return str(registered["authentication"]["symmetricKey"]["primaryKey"])


def pki_of(contoso: Contoso, name: str, intermediates: int = 1, *, verified: bool = True) -> Pki:
    """A hierarchy of one's own, registered at the hub."""
    pki = Pki(contoso.pki.now, intermediates, root_name=f"Root of {name}")
    contoso.register_ca(name, pki.root.certificate, verified=verified)
    return pki


# Tokens -------------------------------------------------------------------------------------------------------------


def wrong_key(contoso: Contoso, name: str) -> Device:
    contoso.register(name)
    return contoso.with_key(name, WRONG_KEY)


def key_of_another_device(contoso: Contoso, name: str) -> Device:
    contoso.register(name)
    return contoso.with_key(name, key_of(contoso, f"{name}-other"))


def unknown_device(contoso: Contoso, name: str) -> Device:
    return contoso.with_key(name, WRONG_KEY)


def other_spelling(contoso: Contoso, name: str) -> Device:
    return contoso.with_key(name, key_of(contoso, name.upper()))


def disabled(contoso: Contoso, name: str) -> Device:
    return contoso.with_key(name, key_of(contoso, name, status="disabled"))


def key_where_a_certificate_is_registered(contoso: Contoso, name: str) -> Device:
    contoso.register_thumbprints(name, "AB" * 32)
    return contoso.with_key(name, WRONG_KEY)


# Thumbprints --------------------------------------------------------------------------------------------------------


def other_certificate(contoso: Contoso, name: str) -> Device:
    contoso.register_thumbprints(name, "AB" * 32, "CD" * 32)
    return contoso.with_certificate(name, self_signed(f"{name}-other", now=contoso.pki.now))


def other_certificate_with_the_right_name(contoso: Contoso, name: str) -> Device:
    contoso.register_thumbprints(name, "AB" * 32)
    return contoso.with_certificate(name, self_signed(name, now=contoso.pki.now))


def registered(contoso: Contoso, name: str, holder: Holder, **options: str) -> Device:
    contoso.register_thumbprints(name, holder.chain.thumbprint().hex())
    return contoso.with_certificate(name, holder, **options)


def expired(contoso: Contoso, name: str, **options: str) -> Device:
    return registered(contoso, name, self_signed(name, now=contoso.pki.now, **EXPIRED), **options)


def not_yet_valid(contoso: Contoso, name: str) -> Device:
    return registered(contoso, name, self_signed(name, now=contoso.pki.now, **NOT_YET_VALID))


def certificate_where_a_key_is_registered(contoso: Contoso, name: str) -> Device:
    contoso.register(name)
    return contoso.with_certificate(name, self_signed(name, now=contoso.pki.now))


# Certificate authorities --------------------------------------------------------------------------------------------


def unknown_ca(contoso: Contoso, name: str) -> Device:
    contoso.register(name, **BY_CA)
    return contoso.with_certificate(name, Pki(contoso.pki.now, 1, root_name="Nobody's Root").device(name), root=True)


def unknown_ca_whose_root_is_not_sent(contoso: Contoso, name: str) -> Device:
    """Nobody can tell from outside whether what is missing would end at a known CA."""
    contoso.register(name, **BY_CA)
    return contoso.with_certificate(name, Pki(contoso.pki.now, 1, root_name="Nobody's Root").device(name))


def ca_without_proof(contoso: Contoso, name: str) -> Device:
    contoso.register(name, **BY_CA)
    return contoso.with_certificate(name, pki_of(contoso, name, verified=False).device(name), root=True)


def ca_with_the_same_name(contoso: Contoso, name: str) -> Device:
    contoso.register(name, **BY_CA)
    return contoso.with_certificate(name, pki_of(contoso, name).impostor().device(name))


def other_common_name(contoso: Contoso, name: str) -> Device:
    contoso.register(name, **BY_CA)
    return contoso.with_certificate(name, pki_of(contoso, name).device(name.upper()))


def expired_below_a_ca(contoso: Contoso, name: str) -> Device:
    contoso.register(name, **BY_CA)
    return contoso.with_certificate(name, pki_of(contoso, name).device(name, **EXPIRED))


def expired_intermediate(contoso: Contoso, name: str) -> Device:
    contoso.register(name, **BY_CA)
    late = pki_of(contoso, name, 0).authority(f"Late CA of {name}", **EXPIRED)
    return contoso.with_certificate(name, late.issue(name, now=contoso.pki.now))


def intermediate_not_sent(contoso: Contoso, name: str) -> Device:
    contoso.register(name, **BY_CA)
    whole = pki_of(contoso, name, 2).device(name)
    return contoso.with_certificate(name, Holder(whole.certificate, whole.private_key))


def certificate_of_a_server(contoso: Contoso, name: str) -> Device:
    contoso.register(name, **BY_CA)
    return contoso.with_certificate(name, pki_of(contoso, name).device(name, **SERVER_ONLY))


def device_that_is_a_ca(contoso: Contoso, name: str) -> Device:
    contoso.register(name, **BY_CA)
    return contoso.with_certificate(name, pki_of(contoso, name).authority(name))


def issued_by_another_device(contoso: Contoso, name: str) -> Device:
    contoso.register(name, **BY_CA)
    issuer = pki_of(contoso, name).device(f"{name}-issuer")
    return contoso.with_certificate(name, issuer.issue(name, now=contoso.pki.now))


# Modules ------------------------------------------------------------------------------------------------------------


def module_with_a_wrong_key(contoso: Contoso, name: str) -> Device:
    contoso.register(name)
    contoso.register(name, "m1")
    return contoso.with_key(name, WRONG_KEY, module="m1")


def unknown_module(contoso: Contoso, name: str) -> Device:
    return contoso.with_key(name, key_of(contoso, name), module="m1")


def module_of_a_disabled_device(contoso: Contoso, name: str) -> Device:
    contoso.register(name, status="disabled")
    return contoso.with_key(name, key_of(contoso, name, "m1"), module="m1")


def module_with_its_devices_certificate(contoso: Contoso, name: str) -> Device:
    holder = self_signed(name, now=contoso.pki.now)
    contoso.register_thumbprints(name, holder.chain.thumbprint().hex())
    contoso.register(name, "m1")
    return contoso.with_certificate(name, holder, module="m1")


# All of them --------------------------------------------------------------------------------------------------------

CASES: dict[Case, str] = {
    wrong_key: "sas-signature-mismatch",
    key_of_another_device: "sas-signature-mismatch",
    unknown_device: "unknown-identity",
    other_spelling: "unknown-identity",
    disabled: "disabled",
    key_where_a_certificate_is_registered: "wrong-kind-of-credential",
    other_certificate: "thumbprint-mismatch",
    other_certificate_with_the_right_name: "thumbprint-unknown-subject-known",
    expired: "certificate-expired",
    not_yet_valid: "certificate-not-yet-valid",
    certificate_where_a_key_is_registered: "wrong-kind-of-credential",
    unknown_ca: "chain-untrusted",
    unknown_ca_whose_root_is_not_sent: "chain-intermediate-missing",
    ca_without_proof: "chain-untrusted",
    ca_with_the_same_name: "chain-broken",
    other_common_name: "cn-mismatch",
    expired_below_a_ca: "certificate-expired",
    expired_intermediate: "chain-expired",
    intermediate_not_sent: "chain-intermediate-missing",
    certificate_of_a_server: "chain-wrong-usage",
    device_that_is_a_ca: "end-entity-is-a-ca",
    issued_by_another_device: "chain-broken",
    module_with_a_wrong_key: "sas-signature-mismatch",
    unknown_module: "unknown-identity",
    module_of_a_disabled_device: "device-disabled",
    module_with_its_devices_certificate: "wrong-kind-of-credential",
}
