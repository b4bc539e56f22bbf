"""Writes of the registry, each a function of one transaction: what may be created, changed and deleted.

Rules (hub specification 4.8 to 4.11, 5.4): creating what exists is 409; changing what is missing is 404; changing
needs an If-Match that fits, else 412. An edge device has the modules `$edgeAgent` and `$edgeHub`; they come and go
with that capability. A gateway with children stays a gateway. A twin comes and goes with its identity. Deleting
a device deletes its modules, sessions and waiting messages and leaves its children without a parent. Every write notes
its change in the same transaction; the number of that change is the revision of what was written, so that an etag never
comes back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from edgetrust.limits import MODULES_PER_DEVICE
from edgetrust.protocol.iothub import valid_identifier
from edgetrust.store.authentication import Rules, columns_of, decide_authentication
from edgetrust.store.hierarchy import children, wanted_parent
from edgetrust.store.records import (
    SYSTEM_MODULES,
    Change,
    ChangeKind,
    DeviceDraft,
    DeviceRecord,
    ModuleDraft,
    ModuleRecord,
    RegistryError,
    check_match,
    generation_of,
    milliseconds,
)
from edgetrust.store.rows import device_row, module_row
from edgetrust.store.schema import (
    c2d_messages,
    changes,
    devices,
    modules,
    revoked_certificates,
    session_subscriptions,
    sessions,
    twins,
)
from edgetrust.store.twins import create_twin

_STATUS = {"enabled": True, "disabled": False}
_NEVER = {"connected": False, "connection_changed_ms": 0, "last_activity_ms": 0}


def note(connection: Connection, kind: ChangeKind, device: str | None, module: str | None = None) -> Change:
    """Number a change. Whoever holds the writer's lock numbers in the order of commits."""
    row = {"kind": kind.value, "device": device, "module": module}
    sequence = connection.execute(insert(changes).returning(changes.c.seq), row).scalar_one()
    return Change(sequence, kind, device, module)


@dataclass(slots=True)
class Registrar:
    """One transaction. `changes` is what to announce once it is committed."""

    connection: Connection
    now: datetime
    allow_edge_ca: bool = False
    changes: list[Change] = field(default_factory=list)

    # -- devices ------------------------------------------------------------------------------------------------------

    def create_device(self, draft: DeviceDraft) -> DeviceRecord:
        """RegistryError 400, 409."""
        _check_identifier(draft.device, "device")
        if device_row(self.connection, draft.device) is not None:
            raise RegistryError(f"device {draft.device} exists", code="DeviceAlreadyExists", status=409)
        edge = bool(draft.edge)
        row = {
            "device": draft.device,
            "enabled": _enabled(draft.status, True),
            "status_reason": draft.status_reason,
            "status_changed_ms": 0,
            "edge": edge,
            "parent": wanted_parent(self.connection, draft, None, edge),
            **columns_of(decide_authentication(draft.authentication, None, self._rules(draft.device, edge))),
            **_NEVER,
        }
        sequence = self._note(ChangeKind.CREATED, draft.device)
        generation = generation_of(self.now, sequence)
        self.connection.execute(insert(devices).values(generation=generation, revision=sequence, **row))
        create_twin(self.connection, draft.device, None, self.now, draft.twin)
        if edge:
            self._create_system_modules(draft.device)
        return self.device(draft.device)

    def update_device(self, draft: DeviceDraft, if_match: str | None) -> DeviceRecord:
        """What the draft does not say stays. RegistryError 400, 404, 412."""
        stored = self._matching_device(draft.device, if_match)
        edge = stored.edge if draft.edge is None else draft.edge
        if stored.edge and not edge:
            self._check_childless(stored)
        enabled = _enabled(draft.status, stored.enabled)
        authentication = decide_authentication(
            draft.authentication, stored.authentication, self._rules(stored.device, edge)
        )
        row = {
            "enabled": enabled,
            "status_reason": stored.status_reason if draft.status_reason is None else draft.status_reason,
            "edge": edge,
            "parent": wanted_parent(self.connection, draft, stored, edge),
            **columns_of(authentication),
        }
        if enabled != stored.enabled:
            row["status_changed_ms"] = milliseconds(self.now)
        self._write_device(stored.device, row)
        if edge and not stored.edge:
            self._create_system_modules(stored.device)
        elif stored.edge and not edge:
            for module in SYSTEM_MODULES:
                self._delete_module(stored.device, module)
        return self.device(stored.device)

    def set_enabled(self, device: str, enabled: bool, reason: str | None) -> DeviceRecord:
        """Enable or disable, whatever the etag. RegistryError 404."""
        self.device(device)
        row = {"enabled": enabled, "status_reason": reason, "status_changed_ms": milliseconds(self.now)}
        self._write_device(device, row)
        return self.device(device)

    def delete_device(self, device: str, if_match: str | None) -> None:
        """With everything that is kept for it. If-Match may be left out. RegistryError 404, 412."""
        stored = self._matching_device(device, if_match or "*")
        for child in children(self.connection, stored.device):
            self._write_device(child, {"parent": None})
        for table in (session_subscriptions, sessions, c2d_messages, revoked_certificates, twins, modules, devices):
            self.connection.execute(delete(table).where(table.c.device == device))
        self._note(ChangeKind.DELETED, device)

    def device(self, device: str) -> DeviceRecord:
        """RegistryError 404."""
        found = device_row(self.connection, device)
        if found is None:
            raise RegistryError(f"device {device} is not registered", code="DeviceNotFound", status=404)
        return found

    def _matching_device(self, device: str, if_match: str | None) -> DeviceRecord:
        found = self.device(device)
        check_match(if_match, self._revision(devices, devices.c.device == device), f"device {device}")
        return found

    def _write_device(self, device: str, row: dict[str, Any]) -> None:
        sequence = self._note(ChangeKind.UPDATED, device)
        self.connection.execute(update(devices).where(devices.c.device == device).values(revision=sequence, **row))

    def _check_childless(self, stored: DeviceRecord) -> None:
        below = children(self.connection, stored.device)
        if below:
            raise RegistryError(
                f"device {stored.device} is the parent of {len(below)} devices, {below[0]} among them",
                code="InvalidOperation",
                status=400,
                reason="edge-device-has-children",
                fix="give its children another parent first",
            )

    # -- modules ------------------------------------------------------------------------------------------------------

    def create_module(self, draft: ModuleDraft) -> ModuleRecord:
        """RegistryError 400, 404, 409, 413."""
        _check_identifier(draft.module, "module")
        device = self.device(draft.device)
        if module_row(self.connection, draft.device, draft.module) is not None:
            raise RegistryError(
                f"device {draft.device} has a module {draft.module}",
                code="ModuleAlreadyExistsOnDevice",
                status=409,
                reason="module-already-exists",
            )
        if draft.module in SYSTEM_MODULES and not device.edge:
            raise RegistryError(
                f"{draft.module} is a module of edge devices, and {draft.device} is none",
                code="ArgumentInvalid",
                status=400,
            )
        count = select(func.count()).select_from(modules).where(modules.c.device == draft.device)
        if self.connection.execute(count).scalar_one() >= MODULES_PER_DEVICE:
            raise RegistryError(
                f"device {draft.device} has {MODULES_PER_DEVICE} modules, and there can be no more",
                code="TooManyModulesOnDevice",
                status=413,
            )
        self._insert_module(draft)
        return self.module(draft.device, draft.module)

    def update_module(self, draft: ModuleDraft, if_match: str | None) -> ModuleRecord:
        """What the draft does not say stays. RegistryError 400, 404, 412."""
        stored = self._matching_module(draft.device, draft.module, if_match)
        rules = self._rules(f"{stored.device}/{stored.module}", False)
        row = {
            "managed_by": stored.managed_by if draft.managed_by is None else draft.managed_by,
            **columns_of(decide_authentication(draft.authentication, stored.authentication, rules)),
        }
        sequence = self._note(ChangeKind.UPDATED, stored.device, stored.module)
        of_module = (modules.c.device == stored.device, modules.c.module == stored.module)
        self.connection.execute(update(modules).where(*of_module).values(revision=sequence, **row))
        return self.module(stored.device, stored.module)

    def delete_module(self, device: str, module: str, if_match: str | None) -> None:
        """With everything that is kept for it. If-Match may be left out. RegistryError 401, 404, 412."""
        self._matching_module(device, module, if_match or "*")
        if module in SYSTEM_MODULES:
            raise RegistryError(
                f"{module} belongs to the edge device {device} and goes with it",
                code="SystemModuleModifyUnauthorizedAccess",
                status=401,
            )
        self._delete_module(device, module)

    def module(self, device: str, module: str) -> ModuleRecord:
        """RegistryError 404."""
        self.device(device)
        found = module_row(self.connection, device, module)
        if found is None:
            raise RegistryError(f"device {device} has no module {module}", code="ModuleNotFound", status=404)
        return found

    def _matching_module(self, device: str, module: str, if_match: str | None) -> ModuleRecord:
        found = self.module(device, module)
        of_module = (modules.c.device == device) & (modules.c.module == module)
        check_match(if_match, self._revision(modules, of_module), f"module {device}/{module}")
        return found

    def _create_system_modules(self, device: str) -> None:
        for module in SYSTEM_MODULES:
            self._insert_module(ModuleDraft(device, module, managed_by="IotEdge"))

    def _insert_module(self, draft: ModuleDraft) -> None:
        rules = self._rules(f"{draft.device}/{draft.module}", False)
        columns = columns_of(decide_authentication(draft.authentication, None, rules))
        sequence = self._note(ChangeKind.CREATED, draft.device, draft.module)
        row = {"device": draft.device, "module": draft.module, "managed_by": draft.managed_by, **columns, **_NEVER}
        generation = generation_of(self.now, sequence)
        self.connection.execute(insert(modules).values(generation=generation, revision=sequence, **row))
        create_twin(self.connection, draft.device, draft.module, self.now, draft.twin)

    def _delete_module(self, device: str, module: str) -> None:
        for table in (session_subscriptions, sessions, c2d_messages, revoked_certificates, twins, modules):
            self.connection.execute(delete(table).where(table.c.device == device, table.c.module == module))
        self._note(ChangeKind.DELETED, device, module)

    # -- both ---------------------------------------------------------------------------------------------------------

    def revoke(self, device: str, module: str | None, digest: str) -> None:
        """Never again accept the certificate with this thumbprint, upper-case hex, for the identity. 404."""
        if module is None:
            self.device(device)
        else:
            self.module(device, module)
        row = {"device": device, "module": module or "", "thumbprint": digest}
        same = [revoked_certificates.c[name] == value for name, value in row.items()]
        self.connection.execute(delete(revoked_certificates).where(*same))
        self.connection.execute(insert(revoked_certificates), row)
        self._note(ChangeKind.UPDATED, device, module)

    def _note(self, kind: ChangeKind, device: str, module: str | None = None) -> int:
        change = note(self.connection, kind, device, module)
        self.changes.append(change)
        return change.sequence

    def _revision(self, table: Any, condition: Any) -> int:
        revision: int = self.connection.execute(select(table.c.revision).where(condition)).scalar_one()
        return revision

    def _rules(self, what: str, edge: bool) -> Rules:
        return Rules(what, edge, self.allow_edge_ca)


def _enabled(status: str | None, otherwise: bool) -> bool:
    if status is None:
        return otherwise
    try:
        return _STATUS[status.lower()]
    except KeyError:
        raise RegistryError(
            f"{status[:40]!r} is no status: enabled or disabled", code="ArgumentInvalid", status=400
        ) from None


def _check_identifier(text: str, kind: str) -> None:
    if not valid_identifier(text):
        raise RegistryError(
            f"{text[:140]!r} is no {kind} identifier",
            code="ArgumentInvalid",
            status=400,
            reason="identifier-malformed",
            fix="use 1 to 128 ASCII letters, digits and - : . + % _ # * ? ! ( ) , = @ $ '",
        )
