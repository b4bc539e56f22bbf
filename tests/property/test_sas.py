"""Laws of SAS tokens: signed is verified, any change refuses, garbage is one documented error."""

from __future__ import annotations

import string
from base64 import b64encode

from hypothesis import assume, example, given
from hypothesis import strategies as st

from edgetrust.protocol.sas import (
    SasError,
    SasToken,
    covers,
    format_token,
    parse_token,
    resource_text,
    sign,
    signature_matches,
)

keys = st.binary(min_size=16, max_size=64)
resources = st.text(string.ascii_letters + string.digits + "%/:.-_~$", min_size=1, max_size=60)
expiries = st.integers(0, 2**63 - 1)
policies = st.none() | st.text(string.ascii_letters + string.digits + " %&=+/", min_size=1, max_size=20)
identifiers = st.text(string.ascii_letters + string.digits + "-:.+%_#*?!(),=@$'", min_size=1, max_size=30)
HOSTS = frozenset({"hub.example"})


def holds(text: str, key: bytes) -> bool:
    """Whether `text` is a token that `key` has signed."""
    try:
        token = parse_token(text)
    except SasError:
        return False
    return signature_matches(token, key)


@given(keys, resources, expiries, policies)
def test_signed_is_verified(key: bytes, resource: str, expires_at: int, policy: str | None) -> None:
    token = parse_token(sign(key, resource, expires_at, policy))
    assert (token.resource, token.expires_at, token.policy) == (resource, expires_at, policy)
    assert signature_matches(token, key)
    assert parse_token(format_token(token)) == token


@given(keys, keys, resources, expiries)
def test_another_key_refuses(key: bytes, other: bytes, resource: str, expires_at: int) -> None:
    # HMAC pads keys with zeros: those that differ in trailing zeros only are one key.
    assume(key.rstrip(b"\0") != other.rstrip(b"\0"))
    assert not holds(sign(key, resource, expires_at), other)


@given(keys, resources, expiries, st.data())
def test_any_changed_byte_refuses(key: bytes, resource: str, expires_at: int, data: st.DataObject) -> None:
    text = sign(key, resource, expires_at)
    position = data.draw(st.integers(0, len(text) - 1))
    byte = data.draw(st.integers(0, 127).map(chr))
    changed = text[:position] + byte + text[position + 1 :]
    # %2f and %2F in `sig` are two spellings of one signature; everywhere else a byte counts.
    assume(changed != text and changed.lower() != text.lower())
    assert not holds(changed, key)


@given(keys, resources, expiries, st.data())
def test_any_removed_or_added_byte_refuses(key: bytes, resource: str, expires_at: int, data: st.DataObject) -> None:
    text = sign(key, resource, expires_at)
    position = data.draw(st.integers(0, len(text) - 1))
    assert not holds(text[:position] + text[position + 1 :], key)
    byte = data.draw(st.sampled_from("0aZ%=/&"))
    added = text[:position] + byte + text[position:]
    assume(parts(added) != parts(text))  # an empty pair or `&` more is another spelling of the same
    assert not holds(added, key)


def parts(text: str) -> tuple[str, int, bytes] | None:
    """What counts of a token; None when it is none."""
    try:
        token = parse_token(text)
    except SasError:
        return None
    return token.resource, token.expires_at, token.signature


@given(keys, resources, expiries, policies, st.permutations(["sr", "sig", "se", "skn"]))
def test_pairs_come_in_any_order(
    key: bytes, resource: str, expires_at: int, policy: str | None, order: list[str]
) -> None:
    scheme, _, rest = sign(key, resource, expires_at, policy).partition(" ")
    pairs = dict(pair.split("=", 1) for pair in rest.split("&"))
    text = f"{scheme} " + "&".join(f"{name}={pairs[name]}" for name in order if name in pairs)
    assert holds(text, key)


@given(st.text(max_size=200) | st.text(st.sampled_from("SharedAccessSignature sr=&sig=&se=&skn=%2F0123")))
@example("SharedAccessSignature sr=a&sig=%&se=1")
def test_garbage_is_a_token_or_the_one_error(text: str) -> None:
    try:
        token = parse_token(text)
    except SasError as problem:
        assert problem.reason == "sas-malformed"
    else:
        assert len(token.signature) == 32


@given(st.text(max_size=80), st.binary(min_size=32, max_size=32))
def test_covering_is_total(resource: str, signature: bytes) -> None:
    token = SasToken(resource, signature, 1)
    for device, module in (("d", None), ("d", "m"), (None, None)):
        assert covers(token, HOSTS, device, module) in (True, False)


@given(identifiers, identifiers, identifiers, st.booleans())
def test_a_resource_covers_its_identity_and_no_other(device: str, module: str, other: str, fold: bool) -> None:
    assume(other.lower() not in (device.lower(), module.lower()))
    for name in (device, module, other):
        assume("%" not in name)  # an identifier that is an escape of another is tested by itself
    text = resource_text("hub.example", device, module)
    token = SasToken(text.lower() if fold else text, bytes(32), 1)
    assert covers(token, HOSTS, device, module)
    assert not covers(token, HOSTS, device, other)
    assert not covers(token, HOSTS, other, module)
    assert not covers(token, HOSTS, device, None)
    assert not covers(token, frozenset({"other.example"}), device, module)


@given(st.binary(min_size=32, max_size=32), st.booleans(), st.booleans(), st.booleans())
def test_callers_encode_signatures_differently(signature: bytes, slash: bool, plus: bool, equals: bool) -> None:
    text = b64encode(signature).decode()
    for character, encoded, raw in (("/", "%2F", slash), ("+", "%2b", plus), ("=", "%3D", equals)):
        text = text if raw else text.replace(character, encoded)
    assert parse_token(f"SharedAccessSignature sr=x&sig={text}&se=1").signature == signature
