"""The provisioning service that `edgetrust up` brings along: over the hub's own store and registry, on its ports."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from edgetrust.ca.authority import CertificateAuthority, Order
from edgetrust.ca.settings import CaSettings
from edgetrust.cli.ports import HTTPS
from edgetrust.clock import SystemClock
from edgetrust.errors import ConfigError
from edgetrust.hub.service import Hub
from edgetrust.pki.chain import Chain
from edgetrust.pki.csr import Csr
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import DEVICE
from edgetrust.pki.softkeys import write_private
from edgetrust.provisioning.allocation import Choice
from edgetrust.provisioning.assigning import Issue
from edgetrust.provisioning.hubs import HubHere
from edgetrust.provisioning.policies import OWNER, load_policies
from edgetrust.provisioning.service import Provisioning
from edgetrust.store.policyfile import connection_string
from edgetrust.transport.guests import Guest
from edgetrust.trust.verdict import Accepted

_POLICIES = "dps-policies.json"
_SCOPE_FILE = "dps-id-scope"


async def invited(hub: Hub) -> Guest:
    """The provisioning service as a guest of this hub, which is the only one that it assigns to."""
    return (await _provisioning(hub)).guest()


def described(hub: Hub) -> dict[str, Any]:
    """How to reach the provisioning service. Holds a secret: its service connection string."""
    settings = hub.settings
    owner = load_policies(settings.data / _POLICIES)[OWNER]
    address = settings.name if hub.https_port == HTTPS else f"{settings.name}:{hub.https_port}"
    return {
        "hostname": settings.name,
        "mqtt_port": hub.mqtt_port,
        "https_port": hub.https_port,
        "id_scope": id_scope(settings.data),
        "service_connection_string": connection_string(address, owner),
    }


def is_guest(hub: Hub) -> bool:
    """Whether this hub has it along."""
    return (hub.settings.data / _SCOPE_FILE).exists()


def id_scope(directory: Path) -> str:
    """The identifier scope of the service in this directory, made once. Raises ConfigError."""
    file = directory / _SCOPE_FILE
    if not file.exists():
        write_private(file, f"0ne{secrets.token_hex(4).upper()}\n".encode())
    try:
        return file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"{file} cannot be read: {problem}", reason="config-unreadable") from problem


async def _issuer(hub: Hub) -> Issue:
    """Certificates for devices that send a CSR with their registration, from the authority that came along."""
    directory = hub.settings.data / "ca"
    settings = CaSettings(data=directory, database=hub.settings.database, names=(hub.settings.name,))
    authority = await CertificateAuthority.open(settings, hub.database, SystemClock())

    async def issue(csr: Csr, device: str, accepted: Accepted) -> Chain:
        await authority.refresh()  # the authority's operator may have changed what issues
        names, how = Names(csr.common_name or device), accepted.how.value
        order = Order(csr, DEVICE, names, device, "dps", how, "dps", checks=accepted.checks)
        return (await authority.issue(order)).chain

    return issue


async def _provisioning(hub: Hub) -> Provisioning:
    settings, parts = hub.settings, hub.parts
    return await Provisioning.open(
        id_scope=id_scope(settings.data),
        hosts=settings.hosts,
        policies=settings.data / _POLICIES,
        database=hub.database,
        trail=parts.trail,
        clock=SystemClock(),
        hubs={settings.name: HubHere(parts.identities, parts.twins)},
        choice=Choice({settings.name: 1}),
        issue=await _issuer(hub),
    )
