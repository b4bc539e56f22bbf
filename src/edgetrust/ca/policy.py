"""Who may have which certificate: one pure function over facts, with every check it made.

Rules, in order; the first that fails is the reason:
 1. the credential: something was shown, and whatever was shown is good: a good password does not rescue a bad
    certificate, nor the other way round. An identity's certificate that has ended counts where a rule has a grace;
 2. the request: its names and usages can stand in a certificate of its kind, and the addressed CA issues that kind; if
    it has a challengePassword, that ties it to the connection;
 3. a rule: the first whose credential, names and profiles fit. Rules are data (`Rule`), in ca.toml;
 4. the names: besides its own, an identity gets only what the rule's `hosts` cover, and never a wildcard unasked for;
 5. the registry, where the rule asks for it, and for every Edge CA: only a registered gateway gets one;
 6. the key: certified for nobody else, and not a CA's;
 7. the claim: a name that a bootstrap credential takes is free, or was taken with this very key; a one-time password
    has a use left, or had it with this very key;
 8. a renewal: subject and SAN are those of the certificate that is shown.

An identity obtains certificates for itself only. Must not know HTTP, SQL or clocks beyond `now`.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final, NoReturn

from cryptography import x509

from edgetrust.ca.reasons import IssuanceReason as Why
from edgetrust.ca.request import Asked, owner_of
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import DEVICE, DOWNSTREAM, EDGE_CA, GATEWAY_SERVER
from edgetrust.protocol.iothub import valid_identifier
from edgetrust.store.est import Claim
from edgetrust.trust.verdict import Check

SELF: Final = "{self}"


class CredentialKind(StrEnum):
    """What a client authenticates with."""

    IDENTITY = "identity"
    BOOTSTRAP = "bootstrap"
    PASSWORD = "password"  # noqa: S105 - a kind, not a secret
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class ShownCertificate:
    """A client certificate after path validation. `fault` says what is wrong with it, None if nothing is; `ended_at` is
    when it ended, if it is ours and that is all.
    """

    kind: CredentialKind
    name: str
    thumbprint: str
    certificate: x509.Certificate
    fault: tuple[Why, str] | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ShownPassword:
    """A user name and whether its password was right; `names` is what it is good for, `uses_left` -1 without limit."""

    username: str
    names: str
    uses_left: int = -1
    fault: tuple[Why, str] | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """Everything that the client authenticated with."""

    certificate: ShownCertificate | None = None
    password: ShownPassword | None = None

    @property
    def name(self) -> str:
        """Who this is for rules and records: `identity:NAME`, `bootstrap:NAME`, `password:USER`."""
        if self.certificate is not None:
            return f"{self.certificate.kind.value}:{self.certificate.name}"
        return f"{CredentialKind.PASSWORD.value}:{self.password.username}" if self.password is not None else ""


@dataclass(frozen=True, slots=True)
class Rule:
    """Which credential may obtain which names under which profiles.

    `credential`: a kind; `match`: a pattern of its name (CN or user name). `names`: patterns of the identities, where
    `{self}` stands for the credential's own name; a password brings its own. `also` asks for a second credential.
    `once`: a name can be obtained only while nobody has claimed it. `registered`: it must be in the registry.
    `gateways`: patterns of identities that may have an Edge CA without a registry. `hosts`: patterns of further DNS
    names and IP addresses. `approval`: a person must approve. `grace`: for how long after its end an identity's
    certificate still obtains the next one.
    """

    credential: CredentialKind
    match: str = "*"
    names: tuple[str, ...] = (SELF,)
    profiles: tuple[str, ...] = (DEVICE.name,)
    also: CredentialKind | None = None
    once: bool = False
    registered: bool = False
    gateways: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    approval: bool = False
    grace: timedelta = timedelta(0)


DEFAULT_RULES: Final = (
    Rule(CredentialKind.IDENTITY, profiles=(DEVICE.name, DOWNSTREAM.name, EDGE_CA.name, GATEWAY_SERVER.name)),
    Rule(CredentialKind.BOOTSTRAP, names=(SELF, SELF + "-*"), profiles=(DEVICE.name, DOWNSTREAM.name), once=True),
    Rule(CredentialKind.PASSWORD, profiles=(DEVICE.name, DOWNSTREAM.name, EDGE_CA.name, GATEWAY_SERVER.name)),
)


class Registered(StrEnum):
    """What the registry says of an identity."""

    NO_REGISTRY = "no-registry"
    UNKNOWN = "unknown"
    DISABLED = "disabled"
    DEVICE = "device"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about the addressed CA and about the names and the key that were asked for. `had_before`: this very
    credential has had a certificate for this very key. `binding`: the connection's tls-unique; None with TLS 1.3.
    """

    served: frozenset[str]
    active: bool = True
    registered: Registered = Registered.NO_REGISTRY
    claim: Claim | None = None
    key: str = ""
    key_holders: frozenset[str] = frozenset()
    had_before: bool = False
    renewal: bool = False
    binding: bytes | None = None


class _NotATruthValue:
    __slots__ = ()

    def __bool__(self) -> NoReturn:
        raise TypeError("a decision is not a truth value: match it")


@dataclass(frozen=True, slots=True)
class Granted(_NotATruthValue):
    """`identity` may have a certificate of `profile` with `names`. `claim`: its name is taken with it."""

    identity: str
    profile: str
    names: Names
    rule: Rule
    credential: str
    claim: bool
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class Refused(_NotATruthValue):
    """Nobody gets anything. `identity` is what was asked for, as far as it could be read."""

    identity: str
    reason: Why
    checks: tuple[Check, ...]

    @property
    def detail(self) -> str:
        """What the failing check saw."""
        return next((check.detail for check in reversed(self.checks) if not check.passed), "")


Decision = Granted | Refused


@dataclass(slots=True)
class _Case:
    """A decision in the making."""

    asked: Asked
    shown: Shown
    facts: Facts
    rules: Sequence[Rule]
    now: datetime
    rule: Rule | None = None


_Finding = tuple[Why | None, str]


def decide(asked: Asked, shown: Shown, facts: Facts, rules: Sequence[Rule], now: datetime) -> Decision:
    """Whether the request is granted. Total: whatever is asked, a decision comes back."""
    case, checks = _Case(asked, shown, facts, rules, now), list[Check]()
    for name, check in _CHECKS:
        why, detail = check(case)
        checks.append(Check(name, why is None, detail))
        if why is not None:
            return Refused(asked.owner or asked.common_name, why, tuple(checks))
    assert case.rule is not None
    names = Names(asked.common_name, *_sans(asked))
    claim = case.rule.once and facts.claim is None
    return Granted(asked.owner, asked.profile, names, case.rule, shown.name, claim, tuple(checks))


def _sans(asked: Asked) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """A CA has no alternative names, whatever it asks for."""
    return ((), (), ()) if asked.profile == EDGE_CA.name else (asked.dns, asked.ips, asked.uris)


def _credential(case: _Case) -> _Finding:
    shown = case.shown
    if shown.certificate is None and shown.password is None:
        return Why.UNAUTHENTICATED, "neither a client certificate nor a password"
    graceful = any(_in_grace(rule, case) for rule in case.rules)
    if shown.certificate is not None and shown.certificate.fault is not None and not graceful:
        return shown.certificate.fault
    if shown.password is not None and shown.password.fault is not None:
        return shown.password.fault
    return None, f"{shown.name}, whose certificate ended: within the grace of a rule" if graceful else shown.name


def _in_grace(rule: Rule, case: _Case) -> bool:
    """Whether a rule lets a certificate that has ended obtain the next one."""
    ended = None if case.shown.certificate is None else case.shown.certificate.ended_at
    return ended is not None and rule.credential is CredentialKind.IDENTITY and case.now <= ended + rule.grace


def _request(case: _Case) -> _Finding:
    asked = case.asked
    if asked.fault is not None:
        return asked.fault.reason, asked.fault.detail
    if asked.foreign_usages:
        return Why.USAGE_NOT_GRANTED, f"extended key usage {', '.join(asked.foreign_usages)}"
    if asked.profile == EDGE_CA.name and asked.path_length:
        return Why.CA_NOT_GRANTED, f"path length {asked.path_length}: an Edge CA issues no CAs"
    mismatch = _proof_mismatch(asked.csr.challenge_password, case.facts.binding)
    if mismatch is not None:
        return Why.PROOF_MISMATCH, mismatch
    if not valid_identifier(asked.owner):
        return Why.NAME_MALFORMED, f"{asked.owner!r} is not a device identifier"
    return None, f"{asked.profile} for {asked.common_name!r}"


def _proof_mismatch(said: bytes | None, binding: bytes | None) -> str | None:
    """What a challengePassword says is the connection's tls-unique, and nothing else (RFC 7030, 3.5)."""
    if not said:
        return None
    if binding is None:
        return "a challengePassword over TLS 1.3, which has no tls-unique: use TLS 1.2, or leave it out"
    same = hmac.compare_digest(said.strip(), base64.b64encode(binding))
    return None if same else "the challengePassword is not the tls-unique of this connection"


def _served(case: _Case) -> _Finding:
    asked, served = case.asked, case.facts.served
    if not case.facts.active:
        return Why.AUTHORITY_RETIRED, "this CA does not issue: it is not active, or its key is not here"
    if asked.profile in served:
        return None, asked.profile
    reason = Why.CA_NOT_GRANTED if asked.profile == EDGE_CA.name else Why.PROFILE_NOT_SERVED
    return reason, f"{asked.profile}; this CA issues {', '.join(sorted(served)) or 'nothing'}"


def _find_rule(case: _Case) -> _Finding:
    """The first rule that fits. When none does, the reason is the one of the rule that came furthest."""
    nearest: _Finding = (Why.NAME_NOT_GRANTED, f"no rule for {case.shown.name}")
    for rule in case.rules:
        finding = _fits(rule, case)
        if finding is None:
            case.rule = rule
            return None, f"{rule.credential.value} {rule.match!r}"
        nearest = finding if finding[0] is not None else nearest
    return nearest


def _fits(rule: Rule, case: _Case) -> _Finding | None:
    """None if the rule fits; the reason is None if it is about another credential."""
    name = shown_as(rule.credential, case.shown)
    if name is None or not fnmatchcase(name, rule.match):
        return None, ""
    shown = case.shown.certificate
    if shown is not None and shown.fault is not None and not _in_grace(rule, case):
        return shown.fault
    if case.asked.profile not in rule.profiles:
        reason = Why.CA_NOT_GRANTED if case.asked.profile == EDGE_CA.name else Why.USAGE_NOT_GRANTED
        return reason, f"{case.asked.profile} is not among {', '.join(rule.profiles)}"
    if not _may_name(rule, name, case):
        return Why.NAME_NOT_GRANTED, f"{case.shown.name} may not obtain {case.asked.owner!r}"
    if rule.also is not None and shown_as(rule.also, case.shown) is None:
        needs_password = rule.also is CredentialKind.PASSWORD
        return (Why.PASSWORD_NEEDED if needs_password else Why.CERTIFICATE_NEEDED), f"{rule.also.value} is missing"
    return None


def shown_as(kind: CredentialKind, shown: Shown) -> str | None:
    """The name of the credential of a kind that was shown; None if none was."""
    if kind is CredentialKind.PASSWORD:
        return None if shown.password is None else shown.password.username
    certificate = shown.certificate
    return certificate.name if certificate is not None and certificate.kind is kind else None


def _may_name(rule: Rule, name: str, case: _Case) -> bool:
    patterns = list(rule.names)
    if rule.credential is CredentialKind.PASSWORD and case.shown.password is not None:
        patterns = [case.shown.password.names if pattern == SELF else pattern for pattern in patterns]
    else:
        patterns = [pattern.replace(SELF, _literal(owner_of(name))) for pattern in patterns]
    return any(fnmatchcase(case.asked.owner, pattern) for pattern in patterns)


def _literal(text: str) -> str:
    """A name inside a pattern stands for itself only."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)


def _names(case: _Case) -> _Finding:
    asked, rule = case.asked, case.rule
    assert rule is not None
    if asked.profile == EDGE_CA.name:
        return None, "a CA has no alternative names"
    own = {asked.owner.lower(), asked.common_name.lower()}
    for name in asked.dns:
        if name.lower() not in own and not _covered(name.lower(), rule.hosts):
            return Why.NAME_NOT_GRANTED, f"dNSName {name!r}"
    for ip in asked.ips:
        if ip not in own and not _covered(ip, rule.hosts):
            return Why.NAME_NOT_GRANTED, f"iPAddress {ip}"
    if asked.uris:
        return Why.NAME_NOT_GRANTED, f"URI {asked.uris[0]!r}"
    if asked.profile == GATEWAY_SERVER.name and not (asked.dns or asked.ips):
        return Why.NAME_MISSING, "a server certificate needs a subject alternative name"
    return None, ", ".join((*asked.dns, *asked.ips)) or "no alternative names"


def _covered(name: str, patterns: Sequence[str]) -> bool:
    """A wildcard in a request is granted only where the rule has the same wildcard; a pattern's star is one label."""
    if "*" in name:
        return name in patterns
    label, _, rest = name.partition(".")
    return any(name == pattern or (pattern == f"*.{rest}" and label and rest) for pattern in map(str.lower, patterns))


def _registry(case: _Case) -> _Finding:
    asked, rule, registered = case.asked, case.rule, case.facts.registered
    assert rule is not None
    if registered is Registered.DISABLED:
        return Why.DISABLED, f"{asked.owner} is disabled in the registry"
    if rule.registered and registered in (Registered.UNKNOWN, Registered.NO_REGISTRY):
        return Why.NOT_REGISTERED, f"{asked.owner} is not in the registry"
    if asked.profile == EDGE_CA.name and registered is not Registered.GATEWAY:
        if any(fnmatchcase(asked.owner, pattern) for pattern in rule.gateways):
            return None, f"{asked.owner} is a gateway by the rule"
        return Why.NOT_A_GATEWAY, f"{asked.owner} is not registered as a gateway ({registered.value})"
    return None, registered.value


def _key(case: _Case) -> _Finding:
    others = sorted(case.facts.key_holders - {case.asked.owner})
    if others:
        return Why.KEY_IN_USE, f"the key is certified for {others[0]}"
    return None, "the key is certified for nobody else"


def _claim(case: _Case) -> _Finding:
    claim, rule = case.facts.claim, case.rule
    assert rule is not None
    if not rule.once or claim is None:
        return None, "free" if rule.once else "not a claim"
    if claim.public_key == case.facts.key and claim.credential == case.shown.name:
        return None, "claimed by the same credential with this key: the answer was lost"
    return Why.ALREADY_CLAIMED, f"claimed by {claim.credential} at {claim.claimed_at:%Y-%m-%dT%H:%MZ}"


def _uses(case: _Case) -> _Finding:
    """A one-time password is good again for the key that it was used for: the answer may have been lost."""
    password = case.shown.password
    if password is None or password.uses_left != 0 or case.facts.had_before:
        return None, "" if password is None else f"{password.uses_left} uses left"
    return Why.PASSWORD_USED, f"{password.username} has no uses left"


def _renewal(case: _Case) -> _Finding:
    if not case.facts.renewal:
        return None, "not a renewal"
    certificate = case.shown.certificate
    if certificate is None or certificate.kind is not CredentialKind.IDENTITY:
        return Why.CERTIFICATE_NEEDED, "a renewal shows the certificate that it renews"
    old, asked = certificate.certificate, case.asked
    if not same_name(old.subject, asked.csr.subject):
        return Why.NAMES_CHANGED, f"the subject was {old.subject.rfc4514_string()!r}"
    if _shown_alternatives(old) != _alternatives(asked.csr.alternative):
        return Why.NAMES_CHANGED, "the subject alternative names are not those of the certificate"
    return None, "the names are those of the certificate"


def same_name(one: x509.Name, other: x509.Name) -> bool:
    """Whether two names say the same, however their strings are encoded: types and values are compared."""
    return one == other


def _alternatives(found: x509.SubjectAlternativeName | None) -> frozenset[object]:
    return frozenset(() if found is None else found)


def _shown_alternatives(certificate: x509.Certificate) -> frozenset[object]:
    values = (extension.value for extension in certificate.extensions)
    return _alternatives(next((value for value in values if type(value) is x509.SubjectAlternativeName), None))


_CHECKS: Final[tuple[tuple[str, Callable[[_Case], _Finding]], ...]] = (
    ("credential", _credential),
    ("request", _request),
    ("served", _served),
    ("rule", _find_rule),
    ("names", _names),
    ("registry", _registry),
    ("key", _key),
    ("claim", _claim),
    ("uses", _uses),
    ("renewal", _renewal),
)
