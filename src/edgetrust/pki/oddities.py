"""Certificates of real fleets that `cryptography` reads but warns of: reading one must neither print nor fail.

IoT Edge's certificate service gives every certificate the serial number 0, and some roots have it too; some CAs write
names that are longer than RFC 5280 allows. What to think of them is decided elsewhere, with the certificate in hand.
"""

from __future__ import annotations

import re
import warnings
from typing import Final

from cryptography.utils import CryptographyDeprecationWarning

_SILENCED: Final = (
    ("Parsed a serial number", CryptographyDeprecationWarning),
    ("Attribute's length must be", UserWarning),
)
_FILTERS: Final = [("ignore", re.compile(text, re.IGNORECASE), kind, None, 0) for text, kind in _SILENCED]


def accept_oddities() -> None:
    """Silence these warnings. Filters are process-wide and others change them: ask before reading, it costs a
    comparison.
    """
    if list(warnings.filters[: len(_FILTERS)]) != _FILTERS:
        for text, kind in reversed(_SILENCED):
            warnings.filterwarnings("ignore", text, kind)
