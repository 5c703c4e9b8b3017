"""README.md and docs/: every link leads to a page or a heading that is there, and every command line is one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from relay_tornado.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
LONG = 200
"""Lines from which on a page says at its beginning what is where."""
_COMMAND = re.compile(r"(?:\.venv/bin/)?relay\s[-a-z]")


def without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def headings(page: Path, marks: str = "#+") -> list[str]:
    """The anchors that a page has, as GitHub makes them."""
    found = []
    for heading in re.findall(rf"^{marks} (.*)$", without_code(page), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        found.append(re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-"))
    return found


def links(page: Path) -> list[str]:
    text = without_code(page)
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    return [each for each in found if "://" not in each]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file of the project, and to a heading in it where one is named."""
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


@pytest.mark.parametrize("name", ["client", "commands", "operations", "protocol", "rest"])
def test_a_long_page_begins_with_what_is_where(name: str) -> None:
    """Whoever is in a hurry finds each part of it from the first screen."""
    page = ROOT / "docs" / f"{name}.md"
    assert page.read_text().count("\n") > LONG
    beginning = without_code(page).partition("\n## ")[0]
    listed = set(re.findall(r"\]\(#([^)]+)\)", beginning))
    parts = headings(page, "##")
    if name == "commands":
        parts = [each for each in parts if each.startswith("relay-")]
    assert set(parts) <= listed


def lines(page: Path) -> list[str]:
    """The command lines of a page: those in blocks of their own, and those within the text."""
    blocks = re.findall(r"^```.*?^```", page.read_text(), re.MULTILINE | re.DOTALL)
    code = [line for block in blocks for line in block.splitlines() if _COMMAND.match(line)]
    spans = [each for each in re.findall(r"`([^`]+)`", without_code(page)) if _COMMAND.match(each)]
    return code + [" ".join(each.split()) for each in spans]


def parse(line: str) -> None:
    """Raises where there is no such command, or it has no such option."""
    words = shlex.split(re.sub(r"<[^<>]*>", "WORD", line).partition(" | ")[0], comments=True)[1:]
    command: click.Command = main
    while isinstance(command, click.Group):
        context = click.Context(command)
        parser = command.make_parser(context)
        _, words, _ = parser.parse_args(words)
        if not words:
            return
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no command {words[0]}: {line}"
        command, words = found, words[1:]
    # A flag that is named alone, as in "`relay bucket set --dedupe`", stands for itself.
    if words and words[-1].startswith("--"):
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        assert words.pop() in known, line
    command.make_parser(click.Context(command)).parse_args(words)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_command_lines_are_such(page: Path) -> None:
    """Each names a command that there is, and options that it has."""
    for line in lines(page):
        try:
            parse(line)
        except click.UsageError as error:
            raise AssertionError(f"{line}: {error.format_message()}") from None
