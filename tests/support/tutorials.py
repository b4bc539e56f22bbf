"""Configurations as tutorials of IoT Edge have them; `{folder}` is where their files are."""

from __future__ import annotations

from pathlib import Path

CONTAINERS = """
[agent]
name = "edgeAgent"
type = "docker"
imagePullPolicy = "on-create"
[agent.config]
image = "registry.example/azureiotedge-agent:1.5"
createOptions = { HostConfig = { Binds = ["/iotedge/storage:/iotedge/storage"] } }
[agent.env]
RuntimeLogLevel = "debug"
[connect]
workload_uri = "unix:///var/run/iotedge/workload.sock"
management_uri = "unix:///var/run/iotedge/mgmt.sock"
[listen]
workload_uri = "fd://aziot-edged.workload.socket"
management_uri = "fd://aziot-edged.mgmt.socket"
[watchdog]
max_retries = "infinite"
[moby_runtime]
uri = "unix:///var/run/docker.sock"
network = "azure-iot-edge"
[image_garbage_collection]
enabled = true
cleanup_recurrence = "1d"
"""
BY_CONNECTION_STRING = """
hostname = "edgegateway.example"
[provisioning]
source = "manual"
connection_string = "HostName=hub.example;DeviceId=EdgeGateway;SharedAccessKey=a2V5"
"""
TRANSPARENT_GATEWAY = """
hostname = "edgegateway.example"
trust_bundle_cert = "file://{folder}/root.pem"
[provisioning]
source = "manual"
iothub_hostname = "hub.example"
device_id = "EdgeGateway"
[provisioning.authentication]
method = "x509"
identity_cert = "file://{folder}/identity.cert.pem"
identity_pk = "file://{folder}/identity.key.pem"
[edge_ca]
cert = "file://{folder}/edge-ca.cert.pem"
pk = "file://{folder}/edge-ca.key.pem"
"""
BELOW_A_GATEWAY = """
hostname = "lower.example"
parent_hostname = "edgegateway.example"
trust_bundle_cert = "file://{folder}/root.pem"
[provisioning]
source = "manual"
connection_string = "HostName=hub.example;DeviceId=Lower;SharedAccessKey=a2V5"
[edge_ca]
cert = "file://{folder}/edge-ca.cert.pem"
pk = "file://{folder}/edge-ca.key.pem"
"""
DPS = """
[provisioning]
source = "dps"
global_endpoint = "https://dps.example/"
id_scope = "0ne00AB12CD"
[provisioning.attestation]
"""
DPS_KEY = f"""
auto_reprovisioning_mode = "Dynamic"
{DPS}
method = "symmetric_key"
registration_id = "EdgeGateway"
symmetric_key = {{ value = "a2V5" }}
"""
DPS_X509 = f"""
auto_reprovisioning_mode = "AlwaysOnStartup"
{DPS}
method = "x509"
registration_id = "EdgeGateway"
identity_cert = "file://{{folder}}/identity.cert.pem"
identity_pk = "file://{{folder}}/identity.key.pem"
"""
DPS_TPM = f"""
{DPS}
method = "tpm"
registration_id = "EdgeGateway"
[tpm]
tcti = "swtpm:port=2321"
auth_key_index = 256
hierarchy_authorization = {{ endorsement = "hello", owner = "world" }}
"""
EST = f"""
{DPS}
method = "x509"
registration_id = "EdgeGateway"
[provisioning.attestation.identity_cert]
method = "est"
common_name = "EdgeGateway"
[provisioning.attestation.identity_cert.auto_renew]
rotate_key = true
threshold = "80%"
retry = "4%"
[cert_issuance.est]
trusted_certs = ["file://{{folder}}/root.pem"]
[cert_issuance.est.auth]
username = "estuser"
password = "estpwd"
bootstrap_identity_cert = "file://{{folder}}/identity.cert.pem"
bootstrap_identity_pk = "file://{{folder}}/identity.key.pem"
[cert_issuance.est.identity_auto_renew]
rotate_key = true
threshold = "80%"
retry = "4%"
[cert_issuance.est.urls]
default = "https://est.example:8085/.well-known/est"
[edge_ca]
method = "est"
common_name = "iotedged workload ca edgegateway"
expiry_days = 90
url = "https://ca.example/.well-known/est"
[edge_ca.auto_renew]
rotate_key = true
threshold = "80%"
retry = "4%"
"""
LOCAL_CA = (
    """
hostname = "edgegateway.example"
[provisioning]
source = "manual"
iothub_hostname = "hub.example"
device_id = "EdgeGateway"
[provisioning.authentication]
method = "x509"
[provisioning.authentication.identity_cert]
method = "local_ca"
subject = { L = "AQ", ST = "Antarctica", CN = "EdgeGateway" }
expiry_days = 30
[cert_issuance.local_ca]
cert = "file://FOLDER/edge-ca.cert.pem"
pk = "file://FOLDER/edge-ca.key.pem"
[edge_ca]
method = "local_ca"
common_name = "edge ca of this gateway"
[preloaded_keys]
my-key = "file://FOLDER/identity.key.pem"
[preloaded_certs]
my-cert = "file://FOLDER/identity.cert.pem"
my-bundle = ["my-cert", "aziot-edged-ca"]
[localid]
domain = "contoso.example"
""".replace("FOLDER", "{folder}")
    .replace("{ L", "{{ L")
    .replace('EdgeGateway" }', 'EdgeGateway" }}')
)


def filled(text: str, folder: Path, **names: str) -> str:
    """A configuration with the files of a folder, and with other names in the place of `NAME.example`."""
    made = text.format(folder=folder) if "{folder}" in text else text
    for name, value in names.items():
        made = made.replace(f"{name}.example", value)
    return made + CONTAINERS
