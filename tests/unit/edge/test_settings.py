"""config.toml: what is understood, and what is said about the rest."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from edgetrust.edge.attesting import Dps, Reprovision
from edgetrust.edge.credentials import Assignment, DeviceCertificate, DeviceKey, DeviceTpm, IssuedIdentity
from edgetrust.edge.edgeca import EdgeCaFiles, QuickstartCa
from edgetrust.edge.settings import Settings, load_settings
from edgetrust.edge.tokens import TokenKey
from edgetrust.errors import ConfigError
from edgetrust.pki.keys import KeyAlgorithm

KEY = base64.b64encode(b"k" * 32).decode()
CONNECTION = f"""
[provisioning]
source = "manual"
connection_string = "HostName=Contoso.azure-devices.net;DeviceId=EdgeGateway;SharedAccessKey={KEY}"
"""
X509 = """
[provisioning]
source = "manual"
iothub_hostname = "contoso.azure-devices.net"
device_id = "EdgeGateway"

[provisioning.authentication]
method = "x509"
identity_cert = "file:///var/aziot/certs/id.pem"
identity_pk = "file:///var/aziot/secrets/id%20key.pem"
"""


DPS = f"""
[provisioning]
source = "dps"
global_endpoint = "https://dps.example/"
id_scope = "0neSCOPE"
payload = {{ uri = "file:///var/payload.json" }}

[provisioning.attestation]
method = "symmetric_key"
registration_id = "gateway-1"
symmetric_key = {{ value = "{KEY}" }}
"""


FORWARD = '[edgetrust.forward]\n{} = ["{}"]'
IN_TOKEN = '[aziot_keys]\npkcs11_lib_path = "/x.so"\n[preloaded_keys]\nk = "pkcs11:token=a;object=k?pin-value=1234"\n'


def load(folder: Path, text: str) -> Settings:
    path = folder / "config.toml"
    path.write_text(text, "utf-8")
    return load_settings(path)


def refused(folder: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    assert "config.toml" in caught.value.message
    return caught.value


def test_a_provisioning_service(tmp_path: Path) -> None:
    settings = load(tmp_path, 'auto_reprovisioning_mode = "OnErrorOnly"\nhostname = "edgegateway.local"\n' + DPS)
    assert settings.dps == Dps(
        "https://dps.example", "0neSCOPE", "gateway-1", Path("/var/payload.json"), Reprovision.ON_ERROR
    )
    assert isinstance(settings.credential, DeviceKey)
    assert (settings.hub, settings.device, settings.upstream.name) == ("", "", "")
    assigned = settings.assigned_to(Assignment("contoso.azure-devices.net", "EdgeGateway"))
    assert (assigned.hub, assigned.device) == ("contoso.azure-devices.net", "EdgeGateway")
    assert assigned.upstream.host == "contoso.azure-devices.net"
    assert KEY not in repr(assigned)


def test_a_tpm_attests(tmp_path: Path) -> None:
    place = '[tpm]\ntcti = "device:/dev/tpmrm0"\nhierarchy_authorization = { owner = "secret" }'
    settings = load(tmp_path, DPS.replace('"symmetric_key"', '"tpm"') + place)
    assert isinstance(settings.credential, DeviceTpm)
    held = settings.credential.place
    assert (held.tcti, held.key_index, held.owner.reveal()) == ("device:/dev/tpmrm0", 256, "secret")
    assert "SecretText(<redacted>)" in repr(held)


def test_an_identity_for_a_provisioning_service_is_issued_by_its_registration(tmp_path: Path) -> None:
    start, _, _ = DPS.partition('method = "symmetric_key"')
    ca = '[cert_issuance.local_ca]\ncert = "file:///ca.pem"\npk = "file:///ca.key"\n'
    wanted = '[provisioning.attestation.identity_cert]\nmethod = "local_ca"\n'
    for said, name in (('registration_id = "gw"\n' + wanted, "gw"), (wanted + 'common_name = "cn"\n', "cn")):
        settings = load(tmp_path, f'{start}method = "x509"\n{said}{ca}')
        assert isinstance(settings.credential, IssuedIdentity)
        assert settings.credential.order.subject.rfc4514_string() == f"CN={name}"
    assert "nothing says its common name" in refused(tmp_path, f'{start}method = "x509"\n{wanted}{ca}').message
    both = f'{start}method = "x509"\nregistration_id = "gw"\n{wanted}common_name = "cn"\n{ca}'
    assert "common name 'cn'" in refused(tmp_path, both).message


def test_keys_in_a_token(tmp_path: Path) -> None:
    key = 'identity_pk = "pkcs11:token=a;object=id?pin-value=1234"'
    settings = load(tmp_path, X509.replace('identity_pk = "file:///var/aziot/secrets/id%20key.pem"', key) + IN_TOKEN)
    assert isinstance(settings.credential, DeviceCertificate)
    wanted = TokenKey(Path("/x.so"), "pkcs11:token=a;object=id?pin-value=1234")
    assert settings.credential.key == wanted
    assert settings.key_places() == {"device-id": wanted, "k": settings.serving.preloaded_keys["k"]}
    assert settings.token is None
    assert "1234" not in repr(settings)
    assert not any("preloaded" in warning for warning in settings.warnings)


def test_a_connection_string(tmp_path: Path) -> None:
    settings = load(tmp_path, 'hostname = "edgegateway.local"\n' + CONNECTION)
    assert (settings.hub, settings.device) == ("contoso.azure-devices.net", "EdgeGateway")
    assert isinstance(settings.credential, DeviceKey)
    assert settings.credential.key.reveal() == b"k" * 32
    assert settings.hostname == "edgegateway.local"
    assert settings.upstream.host == "contoso.azure-devices.net"
    assert (settings.upstream.mqtt_port, settings.upstream.https_port) == (8883, 443)
    assert (settings.listen.mqtt_port, settings.listen.https_port) == (8883, None)
    assert isinstance(settings.edge_ca, QuickstartCa)
    assert settings.edge_ca.days == 90
    assert any("quickstart" in warning for warning in settings.warnings)


def test_a_key_may_lack_its_padding(tmp_path: Path) -> None:
    settings = load(tmp_path, CONNECTION.replace(KEY, KEY.rstrip("=")))
    assert isinstance(settings.credential, DeviceKey)
    assert settings.credential.key.reveal() == b"k" * 32


def test_x509_from_files_and_an_edge_ca_from_files(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        'hostname = "127.0.0.1"\ntrust_bundle_cert = "file:///r.pem"\n'
        + X509
        + """
[edge_ca]
cert = "file:///ca.pem"
pk = "file://localhost/ca.key"

[edgetrust.listen]
mqtt_port = 0
host = "127.0.0.1"

[edgetrust.upstream]
host = "127.0.0.1"
mqtt_port = 18883
ca = "file:///hub.pem"

[edgetrust.gateway]
x509_ca_anchor = "bundle"
module_cert_id_style = "1.4"
server_key = "ec-p256"
require_cn_match_for_thumbprint = true
""",
    )
    wanted = DeviceCertificate(Path("/var/aziot/certs/id.pem"), Path("/var/aziot/secrets/id key.pem"))
    assert settings.credential == wanted
    assert settings.edge_ca == EdgeCaFiles(Path("/ca.pem"), Path("/ca.key"))
    assert settings.trust_bundle == Path("/r.pem")
    assert settings.upstream.host == "127.0.0.1"
    assert settings.upstream.ca == Path("/hub.pem")
    assert not settings.hub_verified_anchors
    assert not settings.keep_dollar_in_certificate_ids
    assert settings.thumbprint_needs_common_name
    assert settings.server_key is KeyAlgorithm.P256
    assert settings.warnings == ()


def test_sas_with_the_key_beside_or_in_a_file(tmp_path: Path) -> None:
    sas = X509[: X509.index("[provisioning.auth")] + '[provisioning.authentication]\nmethod = "sas"\n'
    beside = load(tmp_path, sas + f'device_id_pk = {{ value = "{KEY}" }}')
    (tmp_path / "key").write_bytes(b"raw bytes")
    in_file = load(tmp_path, sas + f'device_id_pk = {{ uri = "file://{tmp_path}/key" }}')
    assert isinstance(beside.credential, DeviceKey)
    assert isinstance(in_file.credential, DeviceKey)
    assert beside.credential.key.reveal() == b"k" * 32
    assert in_file.credential.key.reveal() == b"raw bytes"
    assert "value or uri" in refused(tmp_path, sas).message
    (tmp_path / "key").write_bytes(b"")
    assert "empty" in refused(tmp_path, sas + f'device_id_pk = {{ uri = "file://{tmp_path}/key" }}').message


def test_the_hostname_is_that_of_the_machine_unless_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "machine-7")
    assert load(tmp_path, CONNECTION).hostname == "machine-7"


@pytest.mark.parametrize(
    ("text", "renew"),
    [
        ("auto_generated_edge_ca_expiry_days = 7", ("80", "4")),
        ('method = "self_signed"\nexpiry_days = 7', ("80", "4")),
        (
            "auto_generated_edge_ca_expiry_days = 7\n"
            'auto_renew = { rotate_key = true, threshold = "50%", retry = "1%" }',
            ("50", "1"),
        ),
    ],
)
def test_a_quickstart_edge_ca_with_values(tmp_path: Path, text: str, renew: tuple[str, str]) -> None:
    ca = load(tmp_path, CONNECTION + f"[edge_ca]\n{text}\n").edge_ca
    assert isinstance(ca, QuickstartCa)
    assert ca.days == 7
    assert (str(ca.auto_renew.threshold.percent), str(ca.auto_renew.retry.percent)) == renew


def test_a_quickstart_name_by_subject(tmp_path: Path) -> None:
    table = '[edge_ca]\nauto_generated_edge_ca_expiry_days = 90\nsubject = { CN = "my ca" }'
    ca = load(tmp_path, CONNECTION + table).edge_ca
    assert isinstance(ca, QuickstartCa)
    assert ca.common_name == "my ca"


def test_a_self_signed_edge_ca_without_days_lives_ninety(tmp_path: Path) -> None:
    ca = load(tmp_path, CONNECTION + '[edge_ca]\nmethod = "self_signed"\n').edge_ca
    assert isinstance(ca, QuickstartCa)
    assert ca.days == 90


def test_keys_of_the_real_file_without_effect_are_warnings(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        "allow_elevated_docker_permissions = false\n"
        + CONNECTION
        + '[agent]\nname = "edgeAgent"\n[agent.config]\nimage = "x"\n[tpm]\ntcti = "device"\n',
    )
    for key in ("allow_elevated_docker_permissions", "agent", "tpm"):
        assert any(warning.startswith(f"{key} has no effect") for warning in settings.warnings)


def test_below_a_gateway_everything_is_asked_through_it(tmp_path: Path) -> None:
    nested = f"""
parent_hostname = "above.local"
trust_bundle_cert = "file:///root.pem"
{DPS}
[cert_issuance.est.auth]
username = "u"
password = "p"
[cert_issuance.est.urls]
default = "https://EST.example:8085/.well-known/est"
[edge_ca]
method = "est"
[edgetrust.upstream]
https_port = 8443
direct = ["Near.example"]
"""
    settings = load(tmp_path, nested)
    upstream = settings.upstream
    assert (upstream.name, upstream.ca, upstream.is_parent) == ("above.local", Path("/root.pem"), True)
    assert settings.dps is not None
    assert settings.dps.ca is None  # who issues for gateways does not speak for the service
    above = ("above.local", 8443)
    assert upstream.instead_of(settings.dps.endpoint) == above
    assert upstream.instead_of("https://EST.example:8085/.well-known/est") == above
    for direct in ("near.example", "NEAR.example:1", "192.0.2.7:8085", "[2001:db8::1]", "localhost:1", "above.local:1"):
        assert upstream.instead_of(f"https://{direct}/x") is None
    assert settings.issuing.upstream == upstream
    assert dict(settings.forward.https) == {"dps.example": 443, "est.example": 8085}
    assert dict(settings.forward.mqtt) == {"dps.example": 8883}
    assigned = settings.assigned_to(Assignment("hub.example", "G"))
    assert (assigned.hub, assigned.upstream) == ("hub.example", upstream)
    own = load(tmp_path, nested + '[edgetrust.provisioning]\nca = "file:///dps.pem"').dps
    assert own is not None
    assert own.ca == Path("/dps.pem")


def test_what_is_passed_on(tmp_path: Path) -> None:
    assert load(tmp_path, CONNECTION).forward == load(tmp_path, CONNECTION + "[edgetrust.forward]\nown = false").forward
    settings = load(
        tmp_path, DPS + '[edgetrust.forward]\nhttps = ["DPS.example:444", "e.example"]\nmqtt = ["m.example:1"]'
    )
    assert dict(settings.forward.https) == {"dps.example": 444, "e.example": 443}
    assert dict(settings.forward.mqtt) == {"m.example": 1, "dps.example": 8883}
    assert settings.upstream.instead_of("https://dps.example") is None
    assert any("dps.example is passed on to port 444 and not to port 443" in text for text in settings.warnings)
    assert not load(tmp_path, DPS + "[edgetrust.forward]\nown = false").forward.https
    for none in ("localhost:8443", "192.0.2.1", "this.local"):
        named = DPS.replace("dps.example", none)
        assert not load(tmp_path, 'hostname = "this.local"\n' + named).forward.https


def test_auto_renew_beside_files_is_a_warning(tmp_path: Path) -> None:
    table = '[edge_ca]\ncert = "file:///c"\npk = "file:///k"\n'
    renew = 'auto_renew = { rotate_key = true, threshold = "80%", retry = "4%" }'
    assert any("replacing the files" in warning for warning in load(tmp_path, CONNECTION + table + renew).warnings)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ('hostnam = "x"\n' + CONNECTION, "'hostname'"),
        (CONNECTION + "[edge_ca]\ncertt = 'file:///x'\n", "'cert'"),
        (CONNECTION.replace("connection_string", "conection_string"), "'connection_string'"),
        (CONNECTION + "[edgetrust.listen]\nmqtt-port = 1\n", "'mqtt_port'"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path: Path, text: str, near: str) -> None:
    error = refused(tmp_path, text)
    assert error.reason == "config-unknown-key"
    assert near in error.fix
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "[provisioning] is missing"),
        ('[provisioning]\nsource = "dps"\nid_scope = "0ne"', "needs global_endpoint, id_scope"),
        (CONNECTION + FORWARD.format("https", "dps.example:x"), "is not NAME or NAME:PORT"),
        (CONNECTION + FORWARD.format("https", "dps.example:0"), "the port of dps.example is 0"),
        (CONNECTION + FORWARD.format("https", 'a.example", "A.example:8443'), "stands there with two ports"),
        (CONNECTION + FORWARD.format("mqtt", "192.0.2.1"), "no name that TLS could ask for"),
        (CONNECTION + FORWARD.format("mqtt", "*.example"), "no name that TLS could ask for"),
        (CONNECTION + FORWARD.format("https", "localhost:8443"), "no name that TLS could ask for"),
        (CONNECTION + FORWARD.format("https", ""), "no name that TLS could ask for"),
        ('hostname = "Gate.local"\n' + CONNECTION + FORWARD.format("https", "gate.local"), "is this gateway"),
        (CONNECTION + '[edgetrust.upstream]\ndirect = ["x y"]', "edgetrust.upstream.direct: 'x y'"),
        (DPS + '[edgetrust.provisioning]\nca = "ca.pem"', "edgetrust.provisioning.ca"),
        (DPS.replace("https://dps.example/", "http://dps.example"), "is not https://NAME"),
        (DPS.replace("https://dps.example/", "https://dps.example/path"), "is not https://NAME"),
        (DPS.replace('"gateway-1"', '"gateway 1"'), "not a registration id"),
        (DPS.replace("registration_id", "#registration_id"), "needs registration_id"),
        (DPS.replace("symmetric_key =", "#symmetric_key ="), "needs either value or uri"),
        (DPS.replace('"symmetric_key"', '"password"'), "attestation.method is 'password'"),
        (DPS.replace('"symmetric_key"', '"x509"'), "identity_cert and identity_pk"),
        ('auto_reprovisioning_mode = "Never"\n' + DPS, "auto_reprovisioning_mode is 'Never'"),
        (DPS + "\n[provisioning.attestation.x]", "unknown"),
        (DPS.replace('"symmetric_key"', '"tpm"').replace("registration_id", "#"), "by TPM needs registration_id"),
        (DPS.replace('"symmetric_key"', '"tpm"') + "[tpm]\nauth_key_index = -1", "auth_key_index is -1"),
        (DPS.replace("value =", "uri =").replace(KEY, "pkcs11:object=k"), "a symmetric key in a token is not offered"),
        ('[provisioning]\nsource = "cloud"', "provisioning.source"),
        ('[provisioning]\nsource = "manual"', "needs a connection_string"),
        ('parent_hostname = "p/q"\n' + CONNECTION, "parent_hostname: 'p/q'"),
        ('local_gateway_hostname = "p"\n' + CONNECTION, "not offered yet"),
        (CONNECTION + '[aziot_keys]\npkcs11_base_slot = "pkcs11:token=a"', "pkcs11_base_slot needs pkcs11_lib_path"),
        (CONNECTION + '[preloaded_keys]\nk = "pkcs11:token=a;object=k"', "nothing says by which PKCS#11 module"),
        (CONNECTION + IN_TOKEN.replace(";object=k", ""), "names no object"),
        (CONNECTION + IN_TOKEN.replace("token=a;", ""), "not a PKCS#11 URI"),
        (CONNECTION + '[preloaded_keys]\nk = "secrets/k.pem"', "not a file:// URL"),
        (CONNECTION + '[aziot_keys]\npkcs11_lib_path = "/x.so"\npkcs11_base_slot = "slot 0"', "not a PKCS#11 URI"),
        (CONNECTION.replace("DeviceId=EdgeGateway;", ""), "no DeviceId"),
        (CONNECTION.replace(KEY, "%%%"), "not base64"),
        (CONNECTION.replace(KEY, " "), "is empty"),
        (CONNECTION.replace("EdgeGateway", "Edge Gateway"), "not a device id"),
        (CONNECTION.replace("Contoso.azure-devices.net", "https://x"), "not the name of a hub"),
        (X509.replace('"x509"', '"password"'), "method is 'password'"),
        (X509.replace("identity_pk", "#identity_pk"), "identity_cert and identity_pk"),
        (X509.replace('"file:///var/aziot/certs/id.pem"', '{ method = "est" }'), "there is no url"),
        (X509.replace("file:///var/aziot/certs/id.pem", "pkcs11:object=x"), "not offered yet"),
        (X509.replace("file:///var/aziot/certs/id.pem", "certs/id.pem"), "not a file:// URL"),
        (X509.replace("file:///var/aziot/certs/id.pem", "file://certs/id.pem"), "not a file:// URL"),
        (CONNECTION + '[edge_ca]\ncert = "file:///x"', "both cert and pk"),
        (CONNECTION + '[edge_ca]\nmethod = "est"', "there is no url"),
        (CONNECTION + '[edge_ca]\ncommon_name = "x"', "neither cert and pk"),
        (CONNECTION + "[edge_ca]\nauto_generated_edge_ca_expiry_days = 0", "cannot live for 0 days"),
        (
            CONNECTION
            + '[edge_ca]\nauto_generated_edge_ca_expiry_days = 90\ncommon_name = "x"\nsubject = { CN = "y" }',
            "both common_name and subject",
        ),
        (
            CONNECTION + '[edge_ca]\nauto_generated_edge_ca_expiry_days = 90\nsubject = { CN = "y", L = "AQ" }',
            "subject with L",
        ),
        (
            CONNECTION
            + "[edge_ca]\nauto_generated_edge_ca_expiry_days = 90\n"
            + 'auto_renew = { rotate_key = false, threshold = "80%", retry = "4%" }',
            "rotate_key must be true",
        ),
        (
            CONNECTION
            + "[edge_ca]\nauto_generated_edge_ca_expiry_days = 90\n"
            + 'auto_renew = { rotate_key = true, threshold = "60m", retry = "4%" }',
            "threshold is '60m'",
        ),
        ("cloud_timeout_sec = 10\n" + CONNECTION, "at least 70 seconds"),
        ("cloud_retries = -1\n" + CONNECTION, "negative"),
        ('hostname = ""\n' + CONNECTION, "0 characters"),
        (f'hostname = "{"x" * 65}"\n' + CONNECTION, "65 characters"),
        ('hostname = "a b"\n' + CONNECTION, "neither a host name nor an address"),
        (CONNECTION + "[edgetrust.listen]\nmqtt_port = 70000", "mqtt_port is 70000"),
        (CONNECTION + "[edgetrust.upstream]\nhttps_port = 0", "https_port is 0"),
        (CONNECTION + '[edgetrust.listen]\nhost = ""', "listen.host is empty"),
        (CONNECTION + '[edgetrust.gateway]\nserver_key = "dsa"', "server_key is 'dsa'"),
        ("hostname = 1\n" + CONNECTION, "hostname"),
        ("hostname = \n", "not TOML"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, words: str) -> None:
    error = refused(tmp_path, text)
    assert words in error.message
    assert error.exit_code == 2


def test_a_relative_path_is_answered_with_the_url(tmp_path: Path) -> None:
    error = refused(tmp_path, X509.replace("file:///var/aziot/certs/id.pem", "/certs/id.pem"))
    assert error.fix == '"file:///certs/id.pem"'


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_settings(tmp_path / "config.toml")


def test_below_a_gateway(tmp_path: Path) -> None:
    """The parent is dialled and verified, by the trust bundle unless something else is said."""
    text = 'parent_hostname = "Upper.local"\ntrust_bundle_cert = "file:///root.pem"\n' + CONNECTION
    below = load(tmp_path, text).upstream
    assert (below.name, below.host, below.ca) == ("upper.local", "upper.local", Path("/root.pem"))
    more = '\n[edgetrust.upstream]\nhost = "10.0.0.1"\nca = "file:///other.pem"\n'
    told = load(tmp_path, text + more).upstream
    assert (told.name, told.host, told.ca) == ("upper.local", "10.0.0.1", Path("/other.pem"))
