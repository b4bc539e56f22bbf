"""Explain: for each reason what it means, how to confirm it with tools that are not ours, and how to mend it.

This is what `edgetrust explain REASON` prints and what the reference page of reasons is made of. Commands use
placeholders in capitals. Nothing here is ever sent to the peer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgetrust.trust.verdict import Reason


@dataclass(frozen=True, slots=True)
class Explanation:
    """`text`: the cause. `confirm`: a command that shows it. `fix`: what to do."""

    text: str
    confirm: str
    fix: str


_SHOW_CERT = "openssl x509 -in DEVICE.cert.pem -noout -subject -issuer -dates -fingerprint -sha256"
_SHOW_DEVICE = "edgetrust device show DEVICE"
_VERIFY = "openssl verify -show_chain -CAfile ROOT.cert.pem -untrusted DEVICE.chain.pem DEVICE.cert.pem"
_SEND_KEY = "edgetrust device send DEVICE --key-file KEY_FILE --count 1"

_ALL: dict[Reason, Explanation] = {
    Reason.UNKNOWN_IDENTITY: Explanation(
        "The registry has no device or module of this name. Identifiers are case-sensitive.",
        _SHOW_DEVICE,
        "Create it: edgetrust device create DEVICE, or correct the identifier on the device.",
    ),
    Reason.NOT_A_CHILD: Explanation(
        "The hub knows the device, or may know it, but it is not below this gateway.",
        "edgetrust device show DEVICE (compare parentScopes with deviceScope of the gateway)",
        "Make it a child: edgetrust device update DEVICE --parent GATEWAY. The gateway asks the hub at its next attempt.",
    ),
    Reason.REGISTRY_UNAVAILABLE: Explanation(
        "The gateway has no copy of this registration and cannot ask the hub now.",
        "edgetrust edge status",
        "Restore the connection to the hub; a device must have been synchronised once to connect while offline.",
    ),
    Reason.REGISTRATION_STALE: Explanation(
        "The gateway's copy of the registration is older than its trust deadline.",
        "edgetrust edge status",
        "Restore the connection to the hub; the next synchronisation renews the copy.",
    ),
    Reason.DISABLED: Explanation(
        "The identity is disabled in the registry.", _SHOW_DEVICE, "edgetrust device enable DEVICE"
    ),
    Reason.DEVICE_DISABLED: Explanation(
        "The module's device is disabled, which disables its modules too.",
        _SHOW_DEVICE,
        "edgetrust device enable DEVICE",
    ),
    Reason.NO_CREDENTIAL: Explanation(
        "The peer sent neither a password nor a client certificate.",
        "openssl s_client -connect HOST:8883 -cert DEVICE.cert.pem -key DEVICE.key.pem",
        "Give the client its key (SAS) or its certificate and private key. A TLS proxy in between drops client certificates.",
    ),
    Reason.WRONG_KIND_OF_CREDENTIAL: Explanation(
        "The identity is registered for one kind of credential and the peer showed another. A password, when sent, is always "
        "what is judged, whatever certificate lies beside it.",
        _SHOW_DEVICE,
        "Use the registered kind, or change it: edgetrust device update DEVICE --auth sas|thumbprint|ca.",
    ),
    Reason.NO_AUTHENTICATION_REGISTERED: Explanation(
        "The identity has no credential of its own (authentication type none), so nothing can authenticate it.",
        _SHOW_DEVICE,
        "Give it one: edgetrust device update DEVICE --auth sas|thumbprint|ca.",
    ),
    Reason.MODULE_CERTIFICATE_UNSUPPORTED: Explanation(
        "A module showed a certificate to a gateway. Gateways take SAS tokens from modules only.",
        "openssl s_client -connect GATEWAY:8883",
        "Let the module use its SAS key (the workload API signs for it) and send no certificate.",
    ),
    Reason.EDGE_DEVICE_BY_CA: Explanation(
        "An edge device tried X.509 CA authentication straight at the hub, which the hub does not allow by default.",
        _SHOW_DEVICE,
        "Register the certificate's thumbprints: edgetrust device update DEVICE --auth thumbprint --thumbprint HEX.",
    ),
    Reason.SAS_MALFORMED: Explanation(
        "The password is no SAS token: SharedAccessSignature sr=...&sig=...&se=... is expected.",
        _SEND_KEY,
        "Make the token from the key, do not send the key itself. MQTT clients without an SDK need the whole token as password.",
    ),
    Reason.SAS_EXPIRED: Explanation(
        "The token's expiry (se) has passed by more than five minutes.",
        "date -u -d @SE",
        "Make a new token. If it is new, the device's clock is behind: compare `date -u` on both sides.",
    ),
    Reason.SAS_OTHER_RESOURCE: Explanation(
        "The token is for another hub, device or module than the one that connects.",
        "edgetrust refusals (shows the token's resource)",
        "Make the token for HUB/devices/DEVICE (or .../modules/MODULE). Behind a gateway it still names the hub.",
    ),
    Reason.SAS_SIGNATURE_MISMATCH: Explanation(
        "The token is signed with neither the primary nor the secondary key.",
        _SEND_KEY,
        "Copy the key again (edgetrust device show DEVICE --keys); a key that was rolled makes old tokens invalid.",
    ),
    Reason.SAS_UNKNOWN_POLICY: Explanation(
        "The token names a shared access policy (skn) that does not exist or may not connect devices.",
        "edgetrust refusals (shows the policy)",
        "Use a device key without skn, or a policy that holds DeviceConnect.",
    ),
    Reason.CERTIFICATE_MALFORMED: Explanation(
        "The client certificate cannot be read as X.509 v3.",
        _SHOW_CERT,
        "Issue it again with a current tool.",
    ),
    Reason.CERTIFICATE_EXPIRED: Explanation(
        "The client certificate's notAfter has passed.",
        _SHOW_CERT,
        "Renew it. With two thumbprints registered the device can use its second certificate at once.",
    ),
    Reason.CERTIFICATE_NOT_YET_VALID: Explanation(
        "The client certificate's notBefore lies in the future.",
        _SHOW_CERT,
        "Wait, or issue it with an earlier notBefore; compare the clocks of issuer and hub.",
    ),
    Reason.THUMBPRINT_MISMATCH: Explanation(
        "The certificate's hash equals neither registered thumbprint.",
        _SHOW_CERT,
        "Register it, if it is genuine: edgetrust device update DEVICE --thumbprint HEX. If you do not know it, somebody is trying.",
    ),
    Reason.THUMBPRINT_UNKNOWN_SUBJECT_KNOWN: Explanation(
        "The certificate carries this identity's name but is not the one registered: typically renewed without telling the "
        "registry, or issued by somebody else.",
        _SHOW_CERT,
        "If the device was renewed: edgetrust device update DEVICE --secondary-thumbprint HEX, then drop the old one.",
    ),
    Reason.CN_MISMATCH: Explanation(
        "With X.509 CA authentication the certificate's common name must equal the device id (DEVICE/MODULE for a module), "
        "byte for byte; upper and lower case differ.",
        _SHOW_CERT,
        "Connect with the identifier in the certificate, or issue a certificate for this identifier.",
    ),
    Reason.END_ENTITY_IS_A_CA: Explanation(
        "The certificate is a CA (basicConstraints CA:TRUE). A CA's certificate is not accepted as a device's.",
        "openssl x509 -in DEVICE.cert.pem -noout -ext basicConstraints",
        "Issue an end-entity certificate for the device and use that.",
    ),
    Reason.CHAIN_UNTRUSTED: Explanation(
        "The chain ends at a CA that is not registered and verified in the hub (nor in the gateway's trust bundle).",
        _VERIFY,
        "Register the CA and prove possession (edgetrust hub ca add, hub ca verify), or use a certificate below a known CA.",
    ),
    Reason.CHAIN_EXPIRED: Explanation(
        "A CA certificate in the chain has expired.",
        _VERIFY,
        "Renew that CA's certificate and send the new one with the device's.",
    ),
    Reason.CHAIN_NOT_YET_VALID: Explanation(
        "A CA certificate in the chain is not valid yet.", _VERIFY, "Wait, or compare the clocks of issuer and hub."
    ),
    Reason.CHAIN_WRONG_USAGE: Explanation(
        "A certificate in the chain may not be used for this: the device's lacks clientAuth, or a CA's excludes it.",
        "openssl x509 -in DEVICE.cert.pem -noout -ext extendedKeyUsage,keyUsage",
        "Issue the device's certificate with extended key usage clientAuth (or none).",
    ),
    Reason.CHAIN_INTERMEDIATE_MISSING: Explanation(
        "The issuer of the last certificate that was sent is neither among the sent ones nor a CA that is registered and "
        "verified: an intermediate was not sent, or its CA is not known here. Servers do not fetch intermediates.",
        "openssl s_client -connect HOST:8883 -cert DEVICE.cert.pem -cert_chain DEVICE.chain.pem -key DEVICE.key.pem",
        "Put the intermediates behind the device's certificate in the file that the client loads; if they are there, register "
        "the CA that the refusal's detail names (edgetrust hub ca add, hub ca verify).",
    ),
    Reason.CHAIN_BROKEN: Explanation(
        "The chain does not hold together: a bad signature, an issuer that is no CA, a path longer than allowed, or an "
        "extension that must be understood and is not.",
        _VERIFY,
        "Issue the certificates again; the refusal's detail names the one at fault.",
    ),
    Reason.REVOKED: Explanation(
        "This certificate was revoked for this identity.",
        "edgetrust refusals (shows the thumbprint)",
        "Issue a new certificate with a new key.",
    ),
    Reason.CLOCK_SUSPECT: Explanation(
        "A certificate looks not yet valid, but our own clock reads earlier than this software or than the registration: the "
        "clock is wrong, not the certificate.",
        "date -u",
        "Set the clock (NTP, or by hand), then connect again. Nothing needs to be re-issued.",
    ),
    Reason.CLIENT_IDENTIFIER_MISMATCH: Explanation(
        "The MQTT client identifier differs from the identity in the user name.",
        "edgetrust refusals (shows both)",
        "Use DEVICE (or DEVICE/MODULE) as client identifier, the same as in the user name.",
    ),
    Reason.USER_NAME_MALFORMED: Explanation(
        "The MQTT user name is not HUB/DEVICE[/MODULE]/?api-version=..., or an identifier in it cannot be used over MQTT "
        "(#, + and NUL are wildcards or forbidden in topics).",
        "edgetrust refusals (shows the user name)",
        "Use HUB/DEVICE/?api-version=2021-04-12 as user name.",
    ),
    Reason.HUB_NAME_UNKNOWN: Explanation(
        "The user name names a hub that is not this one.",
        "edgetrust refusals (shows the name)",
        "Use this hub's name in the connection string, or add the alias to the hub's host names.",
    ),
    Reason.PROTOCOL_VIOLATION: Explanation(
        "The peer broke a rule of the protocol; the detail names it. Nothing was decided about its identity.",
        "edgetrust refusals",
        "Use an MQTT 3.1.1 client over TLS; the first packet must be CONNECT.",
    ),
    Reason.AUTH_CHAIN_MISMATCH: Explanation(
        "A gateway asked to speak for an identity, with an auth-chain that does not lead from that identity to the gateway.",
        "mosquitto_pub -d -h HUB -p 8883 -i DEVICE -u 'HUB/DEVICE/?api-version=2021-04-12&auth-chain=DEVICE%3BGATEWAY' -P TOKEN_OF_EDGEHUB",
        "Begin the chain with the identity of the user name and end it with the gateway whose $edgeHub made the token.",
    ),
    Reason.NOT_AUTHORIZED: Explanation(
        "The peer is who it claims to be, but may not do this.",
        "edgetrust refusals",
        "A device acts for itself only; a gateway for its children; a service by the rights of its policy.",
    ),
    Reason.ID_SCOPE_UNKNOWN: Explanation(
        "The device named another identifier scope than this provisioning service has.",
        "edgetrust up --json (dps.id_scope), or id_scope in dps.toml",
        "Configure the device with the scope of this service; scopes are case-sensitive.",
    ),
    Reason.ENROLLMENT_UNKNOWN: Explanation(
        "Nobody enrolled this registration identifier, and no enrollment group takes this kind of credential.",
        "edgetrust enrollment list; edgetrust group list",
        "Enroll it: edgetrust enrollment create ID, or make a group: edgetrust group create GROUP.",
    ),
    Reason.ENROLLMENT_DISABLED: Explanation(
        "The device proved itself, and its enrollment, or the first group on the way up from its certificate, is disabled.",
        "edgetrust enrollment show ID; edgetrust group show GROUP",
        "Let it in: edgetrust enrollment enable ID, or edgetrust group enable GROUP.",
    ),
    Reason.ENROLLMENT_CERTIFICATE_MISMATCH: Explanation(
        "The device has an individual enrollment by X.509 and showed another certificate than the one or two enrolled. An "
        "individual enrollment wins over every group.",
        _SHOW_CERT,
        "Enroll the new certificate: edgetrust enrollment update ID --secondary-certificate FILE; or delete the enrollment, if "
        "a group should decide.",
    ),
    Reason.ENROLLMENT_GROUP_MISSING: Explanation(
        "The chain leads to a CA that this service has verified, but no enrollment group names that CA or an intermediate on "
        "the way to it.",
        "edgetrust group list (shows the CAs of each group)",
        "Make a group for it: edgetrust group create GROUP --ca-name NAME, or give the device a certificate below a group's CA.",
    ),
    Reason.CA_NOT_VERIFIED: Explanation(
        "The chain leads to a CA that is known here, but nobody has proven possession of its key, nor of a CA above it.",
        "edgetrust dps ca list",
        "Prove it: edgetrust dps ca verify NAME --key CA_KEY, or upload it with --verified.",
    ),
    Reason.REGISTRATION_CASE_DIFFERS: Explanation(
        "The device's key was derived from the group's for another spelling of the registration identifier: keys are derived "
        "byte for byte, though identifiers are the same in any letter case.",
        "edgetrust group key GROUP ID (derives the key for ID)",
        "Derive the key for the identifier exactly as the device sends it; lower case is best.",
    ),
    Reason.GROUP_KEY_NOT_DERIVED: Explanation(
        "The device used the key of its enrollment group itself. Each device must have its own, derived key.",
        "edgetrust group key GROUP ID (derives the key for ID)",
        "Put the derived key on the device. Who has the group's key can be every device of the group: replace it if it left "
        "your hands.",
    ),
    Reason.TPM_KEY_MISMATCH: Explanation(
        "The TPM that answered is not the enrolled one: its endorsement or storage root key differs, or it could not decrypt "
        "what only the enrolled TPM can.",
        "tpm2_createek -c EK.ctx -u EK.pub; base64 -w0 EK.pub (compare with edgetrust enrollment show ID)",
        "Enroll the endorsement key of the device's TPM. Clearing a TPM changes its storage root key.",
    ),
    Reason.FORWARD_NAME_NOT_ALLOWED: Explanation(
        "A client below a gateway dialled a name that the gateway does not pass on. It was shown the gateway's own "
        "certificate, which is not for that name, and left.",
        "openssl s_client -connect GATEWAY:443 -servername NAME (shows whose certificate comes)",
        "If those below are to reach it: add NAME or NAME:PORT to https (mqtt for the MQTT port) in [edgetrust.forward] of "
        "this gateway and of each one above it. If the gateway was meant: add NAME to [edgetrust.gateway] names.",
    ),
    Reason.FORWARD_LIMIT: Explanation(
        "A gateway passes on as many connections as it may, for this address or altogether.",
        "edgetrust edge status; the metric edgetrust_gateway_forwarded_open",
        "Wait: the client asks again. If it goes on, look at the address in the record: a client that opens connections "
        "and leaves them has a defect, or means harm.",
    ),
}

EXPLANATIONS: Mapping[Reason, Explanation] = MappingProxyType(_ALL)


def explain(reason: Reason) -> Explanation:
    """What `reason` means, how to confirm it, how to mend it."""
    return EXPLANATIONS[reason]
