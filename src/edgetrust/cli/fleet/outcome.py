"""What an apply did, or would do, and how that is said."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edgetrust.cli.fleet.bundle import folder_name
from edgetrust.cli.fleet.plan import Change
from edgetrust.cli.output import print_json, print_line, say


@dataclass
class Outcome:
    """What was done, or with --dry-run would be."""

    changes: list[Change] = field(default_factory=list)
    certificates: list[str] = field(default_factory=list)
    services: list[str] = field(default_factory=list)
    bundles: list[str] = field(default_factory=list)
    left: list[Change] = field(default_factory=list)
    members: int = 0

    def tell(self, change: Change) -> None:
        self.changes.append(change)


def print_outcome(outcome: Outcome, fleet: str, out: Path, *, dry_run: bool, prune: bool, json: bool) -> None:
    """On stdout, as lines or as one object."""
    if json:
        print_json(
            {
                "fleet": fleet,
                "dryRun": dry_run,
                "members": outcome.members,
                "changes": [{"what": one.verb, "identity": one.name, "facts": one.facts} for one in outcome.changes],
                "certificates": outcome.certificates,
                "services": outcome.services,
                "bundles": {one: str(out / folder_name(one)) for one in outcome.bundles},
                "notInTheFile": [one.name for one in outcome.left] if not prune else [],
            }
        )
        return
    for change in outcome.changes:
        print_line(f"{change.verb:<8}{change.name}" + (f": {', '.join(change.facts)}" if change.facts else ""))
    for certificate in outcome.certificates:
        print_line(f"{'issue':<8}{certificate}")
    for service in outcome.services:
        print_line(f"{'service':<8}{service}")
    for one in outcome.bundles:
        print_line(f"{'bundle':<8}{out / folder_name(one)}")
    if not prune:
        for change in outcome.left:
            print_line(f"{'stays':<8}{change.name}: not in the file any more; --prune deletes it")
    nothing = not (outcome.changes or outcome.certificates or outcome.services or outcome.bundles)
    if dry_run:
        say("nothing would change" if nothing else "nothing was changed: --dry-run")
    else:
        say(f"{outcome.members} identities as they are to be" + ("; nothing changed" if nothing else ""))
