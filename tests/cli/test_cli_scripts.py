"""The scripts for buckets and tokens: thin ways into the same commands."""

import subprocess
from pathlib import Path

import pytest

from tests.test_scripts import Clone


@pytest.mark.parametrize(
    ("script", "command"),
    [
        ("create_bucket", "bucket create"),
        ("create_token", "token create"),
        ("list_tokens", "token list"),
        ("revoke_token", "token revoke"),
    ],
)
def test_a_script_is_its_command(tmp_path: Path, script: str, command: str) -> None:
    """From a fresh clone it sets up .venv, and hands its arguments on as they are."""
    clone = Clone(tmp_path)
    clone.python("python3", "3.12")
    clone.calls.write_text("")
    environment = {"PATH": str(clone.bin), "CALLS": str(clone.calls), "RELAY": str(clone.relay)}
    (clone.relay).write_text('#!/bin/sh\nprintf "%s|" relay "$@"\n')
    run = subprocess.run(
        [str(clone.root / "scripts" / script), "two words", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (run.returncode, run.stdout) == (0, "|".join(["relay", *command.split(), "two words", "--json", ""]))
    assert "--require-hashes" in clone.calls.read_text()
