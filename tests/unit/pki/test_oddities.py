"""Odd certificates are read silently, whatever was done to the filters before."""

from __future__ import annotations

import warnings

import pytest
from cryptography.utils import CryptographyDeprecationWarning

from edgetrust.pki.oddities import accept_oddities


def test_silence_holds_and_is_narrow() -> None:
    accept_oddities()
    accept_oddities()
    warnings.warn("Parsed a serial number which wasn't positive", CryptographyDeprecationWarning, stacklevel=1)
    warnings.warn("Attribute's length must be >= 1 and <= 64, but it was 65", UserWarning, stacklevel=1)
    with pytest.raises(UserWarning):
        warnings.warn("something else", UserWarning, stacklevel=1)
    warnings.simplefilter("error")
    with pytest.raises(CryptographyDeprecationWarning):
        warnings.warn("Parsed a serial number", CryptographyDeprecationWarning, stacklevel=1)
    accept_oddities()
    warnings.warn("Parsed a serial number", CryptographyDeprecationWarning, stacklevel=1)
    before = len(warnings.filters)
    accept_oddities()
    assert len(warnings.filters) == before
