"""`edgetrust explain`: the reasons of refusals, for people and machines."""

from __future__ import annotations

import difflib
from typing import Annotated

import typer

from edgetrust.ca.reasons import MEANINGS, IssuanceReason
from edgetrust.cli.output import Json, print_facts, print_json, print_line, print_table
from edgetrust.errors import UsageError
from edgetrust.trust.explain import explain as explanation_of
from edgetrust.trust.verdict import Reason

app = typer.Typer()


AnyReason = Reason | IssuanceReason
_REASONS: dict[str, AnyReason] = {reason.value: reason for kind in (Reason, IssuanceReason) for reason in kind}


def _complete(incomplete: str) -> list[str]:
    return [name for name in _REASONS if name.startswith(incomplete)]


@app.command(help="What a reason means, how to confirm it, how to mend it. Without REASON: all of them.")
def explain(
    reason: Annotated[str | None, typer.Argument(help="As a refusal shows it.", autocompletion=_complete)] = None,
    *,
    json: Json = False,
) -> None:
    if reason is None:
        _list(json=json)
        return
    known = _find(reason)
    if json:
        print_json(as_json(known))
        return
    print_line(known.value)
    fields = as_json(known)
    print_facts([("means", fields["means"]), ("confirm", fields["confirm"]), ("fix", fields["fix"])], indent="  ")


def as_json(reason: AnyReason) -> dict[str, str]:
    """The explanation of a reason as the command line and refusals show it."""
    explanation = MEANINGS[reason] if isinstance(reason, IssuanceReason) else explanation_of(reason)
    return {
        "reason": reason.value,
        "means": explanation.text,
        "confirm": explanation.confirm,
        "fix": explanation.fix,
    }


def _list(*, json: bool) -> None:
    entries = [as_json(reason) for reason in _REASONS.values()]
    if json:
        print_json(entries)
    else:
        print_table(("REASON", "MEANS"), [(entry["reason"], entry["means"]) for entry in entries])


def _find(text: str) -> AnyReason:
    wanted = text.strip().lower().replace("_", "-")
    if wanted in _REASONS:
        return _REASONS[wanted]
    near = difflib.get_close_matches(wanted, _REASONS, n=1, cutoff=0.4)
    fix = f"did you mean {near[0]}?" if near else "edgetrust explain lists them all"
    raise UsageError(f"there is no reason {text!r}", reason="reason-unknown", fix=fix)
