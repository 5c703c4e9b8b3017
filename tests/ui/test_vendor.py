"""The page's libraries are what vendor.json says, with their licences, and need nothing from elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

import relay_tornado

STATIC = Path(relay_tornado.__file__).resolve().parent / "ui/static"
VENDOR = STATIC / "vendor"
ENTRIES: list[dict[str, Any]] = json.loads((VENDOR / "vendor.json").read_text())
LICENCES = {"MIT", "Apache-2.0"}

_STATIC_IMPORT = re.compile(
    r"""(?:(?:^|;)\s*(?:import|export)[^"';()=]*?\bfrom\s*|^import\s*)["']([^"'\n]+)["']""", re.MULTILINE
)
_CALLED_IMPORT = re.compile(r"""\bimport\(\s*["']([^"'\n]+)["']""")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: str(entry["file"]))
def test_each_file_is_what_is_recorded(entry: dict[str, Any]) -> None:
    """A file has the hash that scripts/vendor wrote down, and a licence whose text stands beside it."""
    assert hashlib.sha256((VENDOR / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    assert re.fullmatch(r"[0-9a-f]{64}", entry["original_sha256"])
    assert re.fullmatch(r"\d+\.\d+\.\d+(-[\w.]+)?", entry["version"])
    assert entry["licence"] in LICENCES
    texts = (VENDOR / "LICENSES.txt").read_text().split("\n---\n\n")
    (text,) = [each for each in texts if each.startswith(f"{entry['package']} {entry['version']}\n")]
    assert len(text.splitlines()) > 10


def test_there_is_no_other_file() -> None:
    """Nothing lies in vendor/ that is not recorded."""
    recorded = {entry["file"] for entry in ENTRIES} | {"vendor.json", "LICENSES.txt"}
    assert {path.name for path in VENDOR.iterdir()} == recorded


def test_imports_are_files_of_the_page() -> None:
    """Whatever a module imports lies in the page's files: no bare name, no other host."""
    modules = sorted(STATIC.rglob("*.js"))
    assert len(modules) > 20
    for module in modules:
        text = module.read_text()
        for name in (*_STATIC_IMPORT.findall(text), *_CALLED_IMPORT.findall(text)):
            assert name.startswith((".", "/ui/static/")), f"{module.name} imports {name}"
            assert _imported(module, name).is_file(), f"{module.name} imports {name}"


def test_the_first_modules_are_all_asked_for_at_once() -> None:
    """The index names every module that the page needs to start. A browser that finds out which ones from their imports
    asks for them one after another, and waits for an answer each time."""
    needed, found = {STATIC / "app.js"}, [STATIC / "app.js"]
    while found:
        module = found.pop()
        new = {_imported(module, name) for name in _STATIC_IMPORT.findall(module.read_text())} - needed
        needed |= new
        found.extend(new)
    named = re.findall(
        r'(?:rel="modulepreload" href|type="module" src)="/ui/static/([^"]+)"', (STATIC / "index.html").read_text()
    )
    assert sorted(named) == sorted(module.relative_to(STATIC).as_posix() for module in needed)


def _imported(module: Path, name: str) -> Path:
    """The file that this module imports by this name."""
    found = STATIC / name.removeprefix("/ui/static/") if name.startswith("/") else module.parent / name
    return found.resolve()


def test_modules_are_short() -> None:
    """A module of the page has fewer than 300 lines, and says in its first one what it is for."""
    for module in STATIC.rglob("*.js"):
        if module.parent != VENDOR:
            lines = module.read_text().splitlines()
            assert len(lines) < 300, module.name
            assert re.match(r"// \w", lines[0]), module.name
