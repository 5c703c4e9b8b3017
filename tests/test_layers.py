"""The layers of docs/architecture.md, held against the imports of the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "relay_tornado"
ARCHITECTURE = (PACKAGE.parent / "docs" / "architecture.md").read_text()

LAYERS: tuple[frozenset[str], ...] = (
    frozenset(
        {
            "model",
            "errors",
            "ids",
            "settings",
            "counters",
            "ranges",
            "consumer_changes",
            "due_times",
            "lateness",
            "low_memory",
            "pieces",
            "steps",
            "sd_notify",
            "shares",
        }
    ),
    frozenset({"wire", "rate_limits", "proxy_trust"}),
    frozenset({"subject", "signatures", "patterns"}),
    frozenset({"rules"}),
    frozenset({"protocol", "copies", "consumer_progress"}),
    frozenset({"storage", "metrics", "tls", "notify", "outgoing", "log_stream"}),
    frozenset({"log", "registry"}),
    frozenset({"search", "series"}),
    frozenset({"ops", "doctor"}),
    frozenset({"ingest", "delivery", "forwarding", "admin"}),
    frozenset({"transport"}),
    frozenset({"handlers"}),
    frozenset({"client"}),
    frozenset({"agent"}),
    frozenset({"app", "engine", "garbage_collection", "gauges", "large_blocks", "log_output", "cli"}),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

SANS_IO = (
    "wire",
    "rate_limits",
    "proxy_trust",
    "shares",
    "rules",
    "patterns",
    "subject",
    "signatures",
    "copies",
    "consumer_progress",
    "due_times",
    "protocol",
    "ingest",
)
"""What never touches a socket, and so imports no server."""

MODULES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py" and path.parent != PACKAGE / "__pycache__"
)


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def _imports(path: Path) -> tuple[str, ...]:
    return tuple(_imported(path))


def _imported(path: Path) -> Iterator[str]:
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


def test_imports_run_in_no_circle() -> None:
    """Nor do two modules of one layer import each other, for their types either."""
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in MODULES}
    TopologicalSorter({name: names.keys() & set(_imports(path)) for name, path in names.items()}).prepare()


@pytest.mark.parametrize("path", [path for path in MODULES if _name(path) in SANS_IO], ids=lambda path: path.name)
def test_what_decides_touches_no_socket(path: Path) -> None:
    """The protocol's logic imports neither Tornado nor sockets, so it is tested without one."""
    roots = {name.split(".")[0] for name in _imports(path)}
    assert not roots & {"tornado", "socket", "aiosqlite"}


def test_only_the_composition_root_names_an_engine() -> None:
    """The concrete log and registry are imported by engine.py alone."""
    for path in MODULES:
        if _name(path) in ("engine", "log", "registry", "storage"):
            continue
        engines = [
            name
            for name in _imports(path)
            if name.startswith(("relay_tornado.log.sqlite", "relay_tornado.registry.sqlite"))
        ]
        assert not engines, f"{path} imports {engines}"


CLIENT = [path for path in MODULES if _name(path) == "client"]
CLIENT_LIBRARIES = {"websockets", "aiohappyeyeballs", *sys.stdlib_module_names}


@pytest.mark.parametrize("path", CLIENT, ids=lambda path: path.name)
def test_the_client_imports_no_server_code(path: Path) -> None:
    """The client stands by itself: of the package it knows its own modules, and the version."""
    for imported in _imports(path):
        root, _, rest = imported.partition(".")
        if root != "relay_tornado":
            assert root in CLIENT_LIBRARIES, f"{path} imports {imported}"
        else:
            assert rest.split(".")[0] in ("", "client"), f"{path} imports {imported}"


def loaded_by(*modules: str) -> set[str]:
    """The names of the modules that Python loads to import these."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(run.stdout.split())


def test_the_client_is_light() -> None:
    """Importing the client loads none of what a server needs."""
    heavy = {"tornado", "aiosqlite", "sqlite3", "marshmallow", "structlog", "msgspec", "click", "rich", "h11"}
    assert not heavy & loaded_by("relay_tornado.client.sync")


def test_a_command_without_a_relay_loads_no_server() -> None:
    """Importing what a command opens a directory with, and does there, loads none of what serves."""
    loaded = loaded_by("relay_tornado.engine", "relay_tornado.admin.commands")
    assert "relay_tornado.log.sqlite" in loaded
    assert not [each for each in loaded if each.startswith(("tornado", "h11", "relay_tornado.handlers"))]


@pytest.mark.parametrize("path", [path for path in MODULES if _name(path) == "agent"], ids=lambda path: path.name)
def test_the_agent_imports_no_server_code(path: Path) -> None:
    """The agent runs where no server does: of the package it knows itself, the client, and what makes requests."""
    known = ("agent", "client", "outgoing", "wire", "errors", "model")
    for imported in _imports(path):
        root, _, rest = imported.partition(".")
        assert root != "relay_tornado" or rest.split(".")[0] in known, f"{path} imports {imported}"


def test_the_agent_is_light() -> None:
    """Importing the agent loads none of what serves."""
    assert not {"tornado", "aiosqlite", "sqlite3", "marshmallow"} & loaded_by("relay_tornado.agent.agent")


def test_the_server_does_not_use_the_client() -> None:
    """What serves needs no client; the agent and the commands do."""
    for path in MODULES:
        if _name(path) not in ("client", "agent", "cli"):
            assert not [name for name in _imports(path) if name.startswith("relay_tornado.client")], path


def test_every_layer_is_documented() -> None:
    """docs/architecture.md names every part that stands in a layer."""
    for name in RANK:
        assert f"`{name}`" in ARCHITECTURE, f"docs/architecture.md does not name {name}"


def test_every_module_that_is_documented_is_there() -> None:
    """Whoever follows docs/architecture.md, or another page, finds what it names."""
    pages = [page.read_text() for page in (PACKAGE.parent / "docs").glob("*.md")]
    named = set(re.findall(r"`((?:\w+/)+\w+\.py)`", "\n".join(pages)))
    assert len(named) > 50
    assert not [each for each in named if not any((root / each).exists() for root in (PACKAGE, PACKAGE.parent))]
