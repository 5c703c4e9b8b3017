"""The layers of docs/architecture.md, held against the imports of the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "relay_tornado"

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"model", "errors", "ids", "settings", "counters"}),
    frozenset({"wire", "limits", "proxy"}),
    frozenset({"subject", "signatures"}),
    frozenset({"rules"}),
    frozenset({"session", "copies"}),
    frozenset({"storage", "metrics", "tls", "notify"}),
    frozenset({"log", "registry"}),
    frozenset({"ops", "doctor"}),
    frozenset({"ingest", "delivery", "admin"}),
    frozenset({"handlers"}),
    frozenset({"app", "levels", "logs", "cli"}),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

SANS_IO = ("wire", "limits", "proxy", "rules", "subject", "signatures", "copies", "session", "ingest")
"""What never touches a socket, and so imports no server."""

MODULES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py" and path.parent != PACKAGE / "__pycache__"
)


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively; write the whole name"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    """A module imports from its own layer's part or from the layers below, never upwards or sideways."""
    own = _name(path)
    if own == "__init__":
        return
    assert own in RANK, f"{own} stands in no layer: add it to docs/architecture.md and to this test"
    for imported in _imports(path):
        parts = imported.split(".")
        if parts[0] != "relay_tornado" or len(parts) < 2 or parts[1] not in RANK or parts[1] == own:
            continue
        same_layer = own in LAYERS[0] or RANK[own] == len(LAYERS) - 1
        allowed = RANK[parts[1]] < RANK[own] or (same_layer and RANK[parts[1]] == RANK[own])
        assert allowed, f"{path.name} ({own}) imports {imported}, which is not below it"


@pytest.mark.parametrize("path", [path for path in MODULES if _name(path) in SANS_IO], ids=lambda path: path.name)
def test_what_decides_touches_no_socket(path: Path) -> None:
    """The protocol's logic imports neither Tornado nor sockets, so it is tested without one."""
    roots = {name.split(".")[0] for name in _imports(path)}
    assert not roots & {"tornado", "socket", "aiosqlite"}


def test_only_the_composition_root_names_an_engine() -> None:
    """The concrete log and registry are imported by app.py alone."""
    for path in MODULES:
        if _name(path) in ("app", "log", "registry", "storage"):
            continue
        engines = [
            name
            for name in _imports(path)
            if name.startswith(("relay_tornado.log.sqlite", "relay_tornado.registry.sqlite"))
        ]
        assert not engines, f"{path} imports {engines}"


def test_every_layer_is_documented() -> None:
    """docs/architecture.md names every part that stands in a layer."""
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    for name in RANK:
        assert f"`{name}`" in text, f"docs/architecture.md does not name {name}"
