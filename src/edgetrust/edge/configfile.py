"""The shape of `config.toml`: every key of the real file, and ours below `[edgetrust]`.

It says only which keys there are and what type each has, so that a misspelt key is found and the nearest one named.
What the values mean, and which of them are offered here, is decided in `settings`. Source: edge specification 1.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from edgetrust.limits import QUEUE_BYTES

Tree = dict[str, Any]
"""A table that has no effect here; its keys are its owner's business."""


class AutoRenewTable(msgspec.Struct, frozen=True):
    """`auto_renew`: all three keys or none."""

    rotate_key: bool
    threshold: str
    retry: str


class KeyLocation(msgspec.Struct, frozen=True):
    """`device_id_pk`: the key itself (base64), or where it is."""

    value: str | None = None
    uri: str | None = None


class IssuedTable(msgspec.Struct, frozen=True):
    """A certificate to be issued instead of read from a file."""

    method: str
    common_name: str | None = None
    subject: dict[str, str] | None = None
    expiry_days: int | None = None
    url: str | None = None
    username: str | None = None
    password: str | None = None
    identity_cert: str | None = None
    identity_pk: str | None = None
    bootstrap_identity_cert: str | None = None
    bootstrap_identity_pk: str | None = None
    auto_renew: AutoRenewTable | None = None


class AuthenticationTable(msgspec.Struct, frozen=True):
    """`[provisioning.authentication]`."""

    method: str
    device_id_pk: KeyLocation | None = None
    identity_cert: str | IssuedTable | None = None
    identity_pk: str | None = None


class AttestationTable(msgspec.Struct, frozen=True):
    """`[provisioning.attestation]`, of DPS."""

    method: str
    registration_id: str | None = None
    symmetric_key: KeyLocation | None = None
    identity_cert: str | IssuedTable | None = None
    identity_pk: str | None = None


class PayloadTable(msgspec.Struct, frozen=True):
    """`payload`: where the JSON is that a provisioning service is sent."""

    uri: str


class ProvisioningTable(msgspec.Struct, frozen=True):
    """`[provisioning]`."""

    source: str
    connection_string: str | None = None
    iothub_hostname: str | None = None
    device_id: str | None = None
    authentication: AuthenticationTable | None = None
    global_endpoint: str | None = None
    id_scope: str | None = None
    payload: PayloadTable | None = None
    attestation: AttestationTable | None = None


class EdgeCaTable(msgspec.Struct, frozen=True):
    """`[edge_ca]`: from files, issued, or quickstart."""

    cert: str | None = None
    pk: str | None = None
    method: str | None = None
    common_name: str | None = None
    subject: dict[str, str] | None = None
    expiry_days: int | None = None
    auto_generated_edge_ca_expiry_days: int | None = None
    url: str | None = None
    username: str | None = None
    password: str | None = None
    identity_cert: str | None = None
    identity_pk: str | None = None
    bootstrap_identity_cert: str | None = None
    bootstrap_identity_pk: str | None = None
    auto_renew: AutoRenewTable | None = None


class EstAuthTable(msgspec.Struct, frozen=True):
    """`[cert_issuance.est.auth]`: HTTP Basic, a certificate, or a bootstrap certificate."""

    username: str | None = None
    password: str | None = None
    identity_cert: str | None = None
    identity_pk: str | None = None
    bootstrap_identity_cert: str | None = None
    bootstrap_identity_pk: str | None = None


class EstTable(msgspec.Struct, frozen=True):
    """`[cert_issuance.est]`."""

    trusted_certs: list[str] = []
    auth: EstAuthTable | None = None
    identity_auto_renew: AutoRenewTable | None = None
    urls: dict[str, str] = {}


class LocalCaTable(msgspec.Struct, frozen=True):
    """`[cert_issuance.local_ca]`."""

    cert: str | IssuedTable
    pk: str | None = None


class CertIssuanceTable(msgspec.Struct, frozen=True):
    """`[cert_issuance]`: how certificates are issued whose `method` is `est` or `local_ca`."""

    est: EstTable | None = None
    local_ca: LocalCaTable | None = None
    certs: dict[str, IssuedTable] = {}


class AziotKeysTable(msgspec.Struct, frozen=True):
    """`[aziot_keys]`: a PKCS#11 module, and the token in it."""

    pkcs11_lib_path: str | None = None
    pkcs11_base_slot: str | None = None


class ListenTable(msgspec.Struct, frozen=True):
    """`[edgetrust.listen]`: where this gateway listens."""

    host: str = "0.0.0.0"  # noqa: S104 - a gateway is there to be reached
    mqtt_port: int = 8883
    https_port: int | None = None


class UpstreamTable(msgspec.Struct, frozen=True):
    """`[edgetrust.upstream]`: how the hub is reached. `host` is dialled instead of the hub's name, which is still
    verified.
    """

    host: str | None = None
    mqtt_port: int = 8883
    https_port: int = 443
    ca: str | None = None
    direct: list[str] = []


class ForwardTable(msgspec.Struct, frozen=True):
    """`[edgetrust.forward]`: services that are reached through this gateway, as NAME or NAME:PORT. `own`: those that it
    uses itself, too.
    """

    own: bool = True
    https: list[str] = []
    mqtt: list[str] = []


class DpsTable(msgspec.Struct, frozen=True):
    """`[edgetrust.provisioning]`: how the provisioning service is verified."""

    ca: str | None = None


class GatewayTable(msgspec.Struct, frozen=True):
    """`[edgetrust.gateway]`: what the real product does not let one choose."""

    x509_ca_anchor: str = "hub+bundle"
    require_cn_match_for_thumbprint: bool = False
    module_cert_id_style: str = "1.2"
    server_key: str = "rsa-2048"
    names: list[str] = []
    offline_days: Annotated[float, msgspec.Meta(ge=0, le=36_500)] = 0.0
    queue_days: Annotated[float, msgspec.Meta(ge=0, le=36_500)] = 0.0
    queue_bytes: Annotated[int, msgspec.Meta(ge=1)] = QUEUE_BYTES
    queue_full: str = "hold"
    deduplicate: str = "resent"


class MetricsTable(msgspec.Struct, frozen=True):
    """`[edgetrust.metrics]`: where Prometheus may ask, by HTTP without TLS."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int | None = None


class ModuleTable(msgspec.Struct, frozen=True):
    """`[edgetrust.modules.NAME]`: a module that runs as a process."""

    command: list[str]
    env: dict[str, str] = {}
    restart: str = "always"


class ContainerTable(msgspec.Struct, frozen=True):
    """`[edgetrust.containers.NAME]`: a module in a container that somebody else starts."""

    uid: Annotated[int, msgspec.Meta(ge=0)]


class PrincipalTable(msgspec.Struct, frozen=True):
    """`[[edgetrust.principal]]`: what a user of this machine may do."""

    uid: int
    name: str | None = None
    keys: list[str] = []
    certs: list[str] = []
    idtype: list[str] | None = None


class UsersTable(msgspec.Struct, frozen=True):
    """`[edgetrust.users]`: the users of the services that are processes of their own, by name or uid."""

    certd: str | int = "aziotcs"
    identityd: str | int = "aziotid"
    edged: str | int = "iotedge"


class EdgetrustTable(msgspec.Struct, frozen=True):
    """`[edgetrust]`: all our extensions of the real file."""

    listen: ListenTable = ListenTable()
    upstream: UpstreamTable = UpstreamTable()
    forward: ForwardTable = ForwardTable()
    provisioning: DpsTable = DpsTable()
    gateway: GatewayTable = GatewayTable()
    metrics: MetricsTable = MetricsTable()
    modules: dict[str, ModuleTable] = {}
    containers: dict[str, ContainerTable] = {}
    principal: list[PrincipalTable] = []
    users: UsersTable = UsersTable()


class HierarchyTable(msgspec.Struct, frozen=True):
    """`[tpm.hierarchy_authorization]`: what the hierarchies of a TPM are protected with."""

    endorsement: str | None = None
    owner: str | None = None


class TpmTable(msgspec.Struct, frozen=True):
    """`[tpm]`: the TPM that attests."""

    tcti: str = "device"
    auth_key_index: int = 256
    hierarchy_authorization: HierarchyTable = HierarchyTable()


class LocalIdTable(msgspec.Struct, frozen=True):
    """`[localid]`: certificates of programs that no hub knows."""

    domain: str


class ConfigFile(msgspec.Struct, frozen=True):
    """The whole file."""

    hostname: str | None = None
    parent_hostname: str | None = None
    local_gateway_hostname: str | None = None
    trust_bundle_cert: str | None = None
    manifest_trust_bundle_cert: str | None = None
    allow_elevated_docker_permissions: bool | None = None
    auto_reprovisioning_mode: str | None = None
    imported_master_encryption_key: str | None = None
    additional_info: str | None = None
    prefer_module_identity_cache: bool = False
    cloud_timeout_sec: int = 70
    cloud_retries: int = 1
    iotedge_max_requests: Tree | None = None
    aziot_max_requests: Tree | None = None
    provisioning: ProvisioningTable | None = None
    cert_issuance: CertIssuanceTable | None = None
    edge_ca: EdgeCaTable | None = None
    preloaded_keys: dict[str, str] | None = None
    preloaded_certs: dict[str, str | list[str]] | None = None
    aziot_keys: AziotKeysTable | None = None
    tpm: TpmTable | None = None
    localid: LocalIdTable | None = None
    agent: Tree | None = None
    connect: Tree | None = None
    listen: Tree | None = None
    watchdog: Tree | None = None
    moby_runtime: Tree | None = None
    image_garbage_collection: Tree | None = None
    edgetrust: EdgetrustTable = EdgetrustTable()


def one_shape(values: Tree) -> Tree:
    """The file with one way to order a certificate: `[cert_issuance.ID]` with a method, as the real file has it, is
    `[cert_issuance.certs.ID]`. A table of that name that is there already stays as it is.
    """
    issuance = values.get("cert_issuance")
    if not isinstance(issuance, dict) or not isinstance(issuance.get("certs", {}), dict):
        return values
    flat = {name: one for name, one in issuance.items() if name not in _OF_ISSUANCE and _orders(one)}
    further = issuance.get("certs", {})
    moved = {name: one for name, one in flat.items() if name not in further}
    rest = {name: one for name, one in issuance.items() if name not in moved}
    return {**values, "cert_issuance": {**rest, "certs": {**further, **moved}}}


_OF_ISSUANCE = frozenset({"est", "local_ca", "certs"})


def _orders(table: object) -> bool:
    return isinstance(table, dict) and "method" in table
