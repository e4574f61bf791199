"""What docs/ refers to is there: its links, the tests and modules it names, and a page for each controller."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from kaa.controllers import manager, podcertificates, storageversionmigrator, storageversions
from kaa.controllers.controller import Controller

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted((*DOCS.rglob("*.md"), ROOT / "README.md"))
#: Those that the manager always has, and those of kinds that are not served by default.
CONTROLLERS = [
    found
    for module in (manager, podcertificates, storageversionmigrator, storageversions)
    for found in vars(module).values()
    if isinstance(found, type) and issubclass(found, Controller) and found is not Controller
]
INDEX = (DOCS / "controllers.md").read_text()


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The names by which links reach the headings of a page."""
    headings: list[str] = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("controller", CONTROLLERS, ids=lambda controller: controller.__name__)
def test_every_controller_has_a_page(controller: type[Controller[object]]) -> None:
    """Named like its module, saying the controller's name, and found through the index."""
    name = f"{controller.__module__.rpartition('.')[2]}.md"
    assert controller.name in (DOCS / "controllers" / name).read_text()
    assert f"(controllers/{name})" in INDEX


def test_every_page_is_about_a_controller() -> None:
    modules = {controller.__module__.rpartition(".")[2] for controller in CONTROLLERS}
    assert {page.stem for page in (DOCS / "controllers").glob("*.md")} == modules


@pytest.mark.parametrize("page", sorted((DOCS / "controllers").glob("*.md")), ids=lambda page: page.stem)
def test_what_a_page_names_is_there(page: Path) -> None:
    """Modules by the end of their path, tests, and under "Where to read" functions and classes."""
    text = prose(page)
    files, defined = sources()
    named = set(re.findall(r"`([\w/]+\.py)`", text))
    assert {name for name in named if not any(path.endswith(f"/{name}") for path in files)} == set()
    words = set(re.findall(r"`(test_\w+)`", text))
    read = re.findall(r"`([\w.]+)`", text.partition("## Where to read")[2])
    words |= {word.rpartition(".")[2] for word in read if not word.endswith(".py")}
    assert words - defined == set()


@cache
def sources() -> tuple[list[str], set[str]]:
    """(paths of the modules of package and tests, names of their functions, classes and constants)"""
    files = [*(ROOT / "src/kaa").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    names = re.compile(r"^ *(?:async )?(?:def|class) (\w+)|^([A-Z]\w*)\b", re.MULTILINE)
    found = {word for file in files for pair in names.findall(file.read_text()) for word in pair if word}
    return [str(file) for file in files], found
