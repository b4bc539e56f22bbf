"""What every page must hold: links that lead somewhere, the project's words, no address of a package registry."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.pages import ROOT, anchors, blocks, links, pages, prose

# From docs/develop/vocabulary.md, the words that are wrong wherever they stand in prose.
UNWANTED = {
    "simply": "leave it out",
    "leaf device": "downstream device",
    "leaf": "end-entity certificate",
    "slave": "replica, or child",
    "blacklist": "deny list",
    "whitelist": "allow list",
    "fingerprint": "thumbprint",
    "client id": "client identifier",
    "last words": "will",
    "keyfile": "key handle, or private key",
    "onboard": "provision",
    "sanitize": "parse",
    "sanitise": "parse",
}
# Hosts that a page or a build file may name. A registry is never among them: which one is used is the reader's choice.
HOSTS = re.compile(
    r"(localhost(\.\.\.)?|127\.0\.0\.1|[\w.-]+\.(local|example)|keepachangelog\.com|semver\.org|\W.*|[A-Z_]+)"
)
BUILD_FILES = ["Makefile", "pyproject.toml", ".ci/run", "tools", "requirements"]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_internal_link_resolves(page: Path) -> None:
    broken = []
    for link in links(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        known = anchors(target.read_text()) if anchor and target.suffix == ".md" and target.exists() else {""}
        if not target.exists() or not target.is_relative_to(ROOT) or anchor not in {*known, ""}:
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_the_projects_words_are_used(page: Path) -> None:
    if page.name == "vocabulary.md":
        return
    text = prose(page.read_text())
    found = {word: instead for word, instead in UNWANTED.items() if re.search(rf"\b{word}\b", text, re.IGNORECASE)}
    assert found == {}


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_console_blocks_show_a_prompt(page: Path) -> None:
    wrong = [block.line for block in blocks(page.read_text()) if block.language in ("bash", "sh", "shell")]
    assert wrong == [], "use ```console and `$ `"
    starts = [block for block in blocks(page.read_text()) if block.language == "console"]
    assert [block.line for block in starts if not block.text.startswith("$ ")] == []


def build_files() -> list[Path]:
    found = []
    for name in BUILD_FILES:
        path = ROOT / name
        found += [one for one in path.iterdir() if one.is_file()] if path.is_dir() else [path]
    return sorted(found)


@pytest.mark.parametrize("path", [*pages(), *build_files()], ids=name_of)
def test_no_address_of_a_registry(path: Path) -> None:
    text = path.read_text()
    hosts = re.findall(r"https?://([^/\s\"'`)>:]+)", text)
    assert [host for host in hosts if not HOSTS.fullmatch(host)] == []
    assert "index-url" not in text


def test_the_lock_of_the_node_packages_names_no_place_to_get_them() -> None:
    text = (ROOT / "tests" / "interop" / "node" / "package-lock.json").read_text()
    assert '"integrity"' in text
    assert '"resolved"' not in text


def test_every_page_is_reachable_from_the_readme() -> None:
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        targets = (link.partition("#")[0] for link in links(page.read_text()) if not re.match(r"[a-z]+:", link))
        waiting += [(page.parent / target).resolve() for target in targets if target]
    lost = [name_of(page) for page in pages() if page not in seen]
    assert lost == []
