"""docs/api.md names what is served, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

from kaa.api.resources import RESOURCES

PAGE = (Path(__file__).resolve().parents[2] / "docs/api.md").read_text()


def test_the_page_lists_every_resource() -> None:
    listed = {
        (row[1], plural)
        for row in re.finditer(r"^\| `([a-z0-9./]+)` \| ([a-z, ]+) \|$", PAGE, re.MULTILINE)
        for plural in row[2].split(", ")
    }
    assert listed == {(resource.api_version, resource.plural) for resource in RESOURCES}


def test_the_page_names_every_subresource() -> None:
    missing = {sub.name for resource in RESOURCES for sub in resource.subresources if f"`{sub.name}`" not in PAGE}
    assert missing == set()
