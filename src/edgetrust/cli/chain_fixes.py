"""What to do about a chain that was refused, for whoever holds the files. Knows no devices and no registrations."""

from __future__ import annotations

from collections.abc import Mapping

from edgetrust.pki.verify import ChainReason

_FIXES: Mapping[ChainReason, str] = {
    ChainReason.UNTRUSTED: "name the root that this chain ends at with --ca, or issue the certificate below a known CA",
    ChainReason.EXPIRED: "renew that certificate; compare `date -u` if it should still be valid",
    ChainReason.NOT_YET_VALID: "wait, or compare `date -u` on the machine that issued it and on this one",
    ChainReason.WRONG_USAGE: "issue it with extended key usage serverAuth (servers), clientAuth (devices), or none",
    ChainReason.INTERMEDIATE_MISSING: "put that issuer behind the certificate; if it is the root, trust it with --ca",
    ChainReason.PATH_LENGTH: "issue it from a CA that may have that many CAs below it (basicConstraints pathlen)",
    ChainReason.NOT_A_CA: "issue it from a CA certificate (basicConstraints CA:TRUE, keyUsage keyCertSign)",
    ChainReason.SIGNATURE: "issue it again; an issuer of the same name with another key does not count",
    ChainReason.NAME: "dial a name that it holds, or issue it for this name (an IP address needs an iPAddress entry)",
    ChainReason.LEAF_IS_CA: "issue an end-entity certificate (basicConstraints CA:FALSE) and use that",
    ChainReason.UNKNOWN_CRITICAL: "issue it without that extension, or with the extension not critical",
    ChainReason.NAME_CONSTRAINTS: "issue it from a CA whose name constraints permit this name",
    ChainReason.WEAK_KEY: "issue it again with an EC P-256 or RSA key of at least 2048 bits",
    ChainReason.TOO_LONG: "send the end-entity certificate and its intermediates only",
}


def fix_for(reason: ChainReason) -> str:
    """One sentence that tells how to mend it."""
    return _FIXES[reason]
