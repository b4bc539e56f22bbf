"""Where the Edge CA comes from: `[edge_ca]`.

Rules. From files, or issued as the table orders it (`issuing`), or self-signed: the quickstart CA, which nobody trusts
and which renews itself with a new key, always. Source: edge specification 1.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgetrust.edge.configfile import EdgeCaTable
from edgetrust.edge.files import EDGE_CA
from edgetrust.edge.issuing import IssuingReader, Order
from edgetrust.edge.reading import Reading
from edgetrust.edge.tokens import KeyPlace
from edgetrust.pki.renewal import AutoRenew

QUICKSTART_DAYS = 90


@dataclass(frozen=True, slots=True)
class EdgeCaFiles:
    """The Edge CA comes from files (end entity of the file first, then its issuers) and is never renewed here."""

    certificate: Path
    key: KeyPlace


@dataclass(frozen=True, slots=True)
class QuickstartCa:
    """The Edge CA is self-signed and renews itself. `common_name` None: `aziot-edge CA <device id>`."""

    days: int
    common_name: str | None
    auto_renew: AutoRenew


@dataclass(frozen=True, slots=True)
class IssuedCa:
    """The Edge CA is issued as `order` says and always renewed in time."""

    order: Order
    auto_renew: AutoRenew


EdgeCa = EdgeCaFiles | QuickstartCa | IssuedCa


class EdgeCaReader(Reading):
    """Reads `[edge_ca]`. Raises ConfigError."""

    def __init__(self, source: Path, module: Path | None, issuing: IssuingReader) -> None:
        super().__init__(source, module)
        self._issuing = issuing

    def edge_ca(self, table: EdgeCaTable | None, device: str) -> EdgeCa:
        """The Edge CA of `device` (empty before it is assigned); a quickstart one without a table."""
        if table is None:
            return QuickstartCa(QUICKSTART_DAYS, None, AutoRenew())
        if table.cert is not None or table.pk is not None:
            if table.cert is None or table.pk is None:
                raise self.wrong("edge_ca needs both cert and pk", reason="config-missing-key")
            return EdgeCaFiles(self.path("edge_ca.cert", table.cert), self.key_place("edge_ca.pk", table.pk))
        if table.method is not None and table.method != "self_signed":
            name = f"aziot-edge CA {device}" if device else None  # who asks knows it, once it is assigned
            order = self._issuing.order("edge_ca", EDGE_CA, table, common_name=name, fixed=False)
            return IssuedCa(order, self.auto_renew("edge_ca.auto_renew", table.auto_renew))
        return self._quickstart(table)

    def _quickstart(self, table: EdgeCaTable) -> QuickstartCa:
        days = table.auto_generated_edge_ca_expiry_days
        if table.method is not None:
            days = table.expiry_days if table.expiry_days is not None else QUICKSTART_DAYS
        if days is None:
            raise self.wrong(
                "[edge_ca] has neither cert and pk nor auto_generated_edge_ca_expiry_days",
                reason="config-missing-key",
                fix=f"add auto_generated_edge_ca_expiry_days = {QUICKSTART_DAYS}",
            )
        self.days("edge_ca", days)
        renew = self.auto_renew("edge_ca.auto_renew", table.auto_renew)
        if not renew.rotate_key:
            raise self.wrong("edge_ca.auto_renew.rotate_key must be true for a self-signed Edge CA")
        return QuickstartCa(days, self._ca_name(table), renew)

    def _ca_name(self, table: EdgeCaTable) -> str | None:
        if table.common_name is not None and table.subject is not None:
            raise self.wrong("edge_ca has both common_name and subject")
        if table.subject is None:
            return table.common_name
        others = sorted(set(table.subject) - {"CN"})
        if others:
            raise self.not_offered(f"edge_ca.subject with {', '.join(others)}", "give the CN only")
        return table.subject.get("CN")
