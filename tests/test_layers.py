"""Which layer may import which: docs/architecture.md has the order."""

import ast
import re
from collections.abc import Iterator

import pytest

from offline.record import ROOT

_COMPONENTS = ROOT / "components"
_PAGE = (ROOT / "docs/architecture.md").read_text()
_ORDER = re.findall(r"`(\w+)`", _PAGE.partition("none before it:\n")[2].partition(". A test")[0])


def _imported(folder: str) -> Iterator[tuple[str, str]]:
    """Each file of a layer, with another layer that it imports."""
    for path in (_COMPONENTS / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level > 1 and node.module:
                layer = node.module.partition(".")[0]
                if layer in _ORDER:
                    yield f"{folder}/{path.name}", layer


def test_the_page_names_every_layer() -> None:
    folders = {path.parent.name for path in _COMPONENTS.glob("*/__init__.py")}
    assert set(_ORDER) == folders - {"scripts"}
    assert len(_ORDER) == len(set(_ORDER))


@pytest.mark.parametrize("folder", _ORDER)
def test_no_layer_imports_one_before_it(folder: str) -> None:
    allowed = _ORDER[_ORDER.index(folder) + 1 :]
    assert [item for item in _imported(folder) if item[1] not in allowed] == []


def test_importing_a_package_imports_nothing_else() -> None:
    for path in _COMPONENTS.glob("*/__init__.py"):
        body = ast.parse(path.read_text()).body
        if path.parent.name != "scripts":
            assert [type(node) for node in body] == [ast.Expr], path
