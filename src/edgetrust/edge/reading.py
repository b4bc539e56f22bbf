"""Single values of `config.toml`: each becomes what it means, or an error that names the file and the key."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edgetrust.edge.configfile import AutoRenewTable, AziotKeysTable
from edgetrust.edge.tokens import KeyPlace, TokenKey, TokenPlace
from edgetrust.errors import ConfigError
from edgetrust.pki.pkcs11 import SCHEME, KeyUri
from edgetrust.pki.renewal import AutoRenew, Period

MOST_DAYS = 36_500  # a hundred years


class Reading:
    """Reads one file; `source` names it in errors, `library` is its PKCS#11 module."""

    def __init__(self, source: Path, library: Path | None = None) -> None:
        self.source = source
        self.library = library

    def wrong(self, message: str, *, fix: str = "", reason: str = "config-wrong-value") -> ConfigError:
        """The error for a value that cannot be."""
        return ConfigError(f"{self.source}: {message}", reason=reason, fix=fix)

    def not_offered(self, what: str, fix: str) -> ConfigError:
        """The error for what the real product has and this does not."""
        return self.wrong(f"{what} is not offered yet", fix=fix, reason="config-not-offered")

    def path(self, name: str, url: str) -> Path:
        """The path of a `file://` URL."""
        parts = urlsplit(url)
        if parts.scheme == "pkcs11":
            raise self.not_offered(f"{name}: a PKCS#11 token", "give a file:// URL")
        if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            fix = f'"file://{Path(url).absolute()}"' if "://" not in url else 'like "file:///var/aziot/certs/NAME.pem"'
            raise self.wrong(f"{name}: {url[:200]!r} is not a file:// URL with an absolute path", fix=fix)
        return Path(unquote(parts.path))

    def key_place(self, name: str, url: str) -> KeyPlace:
        """Where a key pair is: a `file://` URL, or `pkcs11:` and an object."""
        if not url.startswith(SCHEME):
            return self.path(name, url)
        if self.library is None:
            raise self.wrong(
                f"{name} is in a token and nothing says by which PKCS#11 module",
                reason="config-missing-key",
                fix='add pkcs11_lib_path = "/path/to/module.so" to [aziot_keys]',
            )
        try:
            uri = KeyUri.parse(url)
        except ConfigError as problem:
            raise self.wrong(f"{name}: {problem.message}", fix=problem.fix) from problem
        if uri.label is None and uri.key_id is None:
            raise self.wrong(f"{name}: the PKCS#11 URI names no object", fix="add object=LABEL")
        return TokenKey(self.library, url)

    def token(self, table: AziotKeysTable | None) -> TokenPlace | None:
        """`[aziot_keys]`; None without a token."""
        if table is None or table.pkcs11_base_slot is None:
            return None  # a module alone is for single keys
        if table.pkcs11_lib_path is None:
            raise self.wrong("aziot_keys.pkcs11_base_slot needs pkcs11_lib_path", reason="config-missing-key")
        try:
            KeyUri.parse(table.pkcs11_base_slot)
        except ConfigError as problem:
            raise self.wrong(f"aziot_keys.pkcs11_base_slot: {problem.message}", fix=problem.fix) from problem
        return TokenPlace(Path(table.pkcs11_lib_path), table.pkcs11_base_slot)

    def hub_name(self, name: str, value: str) -> str:
        """The name of a hub, or of the gateway in its place, in lower case."""
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,253}", value):
            raise self.wrong(
                f"{name}: {value[:80]!r} is not the name of a hub", fix="a host name, without scheme and port"
            )
        return value.lower()

    def days(self, name: str, days: int) -> int:
        """A number of days that a certificate can live."""
        if not 1 <= days <= MOST_DAYS:
            raise self.wrong(f"{name}: a certificate cannot live for {days} days", fix=f"1 to {MOST_DAYS}")
        return days

    def auto_renew(self, name: str, table: AutoRenewTable | None) -> AutoRenew:
        """When to renew; the defaults without a table."""
        if table is None:
            return AutoRenew()
        return AutoRenew(
            rotate_key=table.rotate_key,
            threshold=self._period(f"{name}.threshold", table.threshold),
            retry=self._period(f"{name}.retry", table.retry),
        )

    def _period(self, name: str, text: str) -> Period:
        period = Period.parse(text)
        if period is None:
            raise self.wrong(f"{name} is {text!r}", fix='a number with %, min or day, like "80%", "30 min" or "10 day"')
        return period
