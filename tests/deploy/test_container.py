"""The container's files, held against each other and against the relay's settings. (That the image can be built and run
is what deploy/docker/try-without-docker shows.)"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from relay_tornado.settings import Settings, parse_duration, variable
from tests.needs import needs

ROOT = Path(__file__).parent.parent.parent
DOCKER = ROOT / "deploy" / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
FIELDS = Settings.__dataclass_fields__


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return document


def test_compose_accepts_its_file() -> None:
    """Every key and value is one that it knows, and a missing name of the machine is refused with words."""
    needs("docker-compose", "apt-get install docker-compose")
    command = ["docker-compose", "--file", str(DOCKER / "compose.yaml"), "config", "--quiet"]
    environ = {name: value for name, value in os.environ.items() if name != "RELAY_DOMAIN"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**environ, "RELAY_DOMAIN": "a.example"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ)
    assert done.returncode != 0
    assert "the name under which senders reach this machine" in done.stderr


@pytest.mark.parametrize("page", ["docs/operations.md", "deploy/docker/compose.yaml"])
def test_each_command_that_is_shown_finds_the_name(tmp_path: Path, page: str) -> None:
    """Compose asks for the machine's name whatever it is to do, also after the first command."""
    needs("docker-compose", "apt-get install docker-compose")
    commands = r"^(?:#   )?((?:export RELAY_DOMAIN|RELAY_DOMAIN|docker compose).*)$"
    shown = re.findall(commands, (ROOT / page).read_text(), re.MULTILINE)
    assert sum("docker compose" in line for line in shown) == 2
    (tmp_path / "deploy" / "docker").mkdir(parents=True)
    shutil.copy(DOCKER / "compose.yaml", tmp_path / "deploy" / "docker")
    script = ["set -e", 'docker() { docker-compose "$2" "$3" config --quiet; }', *shown]
    environ = {name: value for name, value in os.environ.items() if name != "RELAY_DOMAIN"}
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_relay_can_do_little() -> None:
    """Not root, no capability, nothing writable but its data and a temporary /tmp."""
    relay = compose()["services"]["relay"]
    assert relay["read_only"] is True
    assert relay["cap_drop"] == ["ALL"]
    assert relay["security_opt"] == ["no-new-privileges:true"]
    assert [mount.split(":")[0] for mount in (*relay["volumes"], *relay["tmpfs"])] == ["data", "/tmp"]
    assert re.search(r"^USER [1-9]\d+:[1-9]\d+$", DOCKERFILE, re.MULTILINE)


def test_variables_are_settings() -> None:
    """A variable that the relay does not read would be set in vain."""
    given = set(re.findall(r"\b(RELAY_\w+)=", DOCKERFILE)) | compose()["services"]["relay"]["environment"].keys()
    assert given <= {variable(field) for field in FIELDS.values()}


def test_compose_waits_for_a_drain() -> None:
    """Webhooks that were accepted are finished before the container is killed."""
    assert parse_duration(compose()["services"]["relay"]["stop_grace_period"]) > 2 * FIELDS["drain_timeout"].default


def test_the_proxy_is_trusted_where_it_comes_from() -> None:
    """The range that the relay trusts is the network that it shares with Caddy."""
    document = compose()
    [network] = document["networks"]["inside"]["ipam"]["config"]
    assert document["services"]["relay"]["environment"]["RELAY_PROXY_TRUST"] == network["subnet"]


def test_the_image_is_what_the_lock_says() -> None:
    """Nothing is installed that was not held against a hash, nor what only tests need, and the Pythons of both stages
    are one."""
    dependencies, relay = re.findall(r"pip (?:install|download|wheel) ([^\n\\]*)", DOCKERFILE)
    assert dependencies == "--require-hashes --requirement requirements-serve.lock"
    assert relay.split() == ["--no-deps", "--no-build-isolation", "."]
    [base] = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))
    assert base == "python:3.13-slim"


def test_the_context_holds_what_is_copied_and_no_more() -> None:
    """No data directory, no virtual environment and no history can get into an image."""
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().split("\n")
    assert "*" in ignored
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == sources
    assert all((ROOT / source).exists() for source in sources)


def test_the_trial_says_what_it_needs() -> None:
    """Its help works on any machine with Python."""
    done = subprocess.run([sys.executable, DOCKER / "try-without-docker", "--help"], capture_output=True, timeout=60)
    assert done.returncode == 0
    assert b"no" in done.stdout
