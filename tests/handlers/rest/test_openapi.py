"""The API's description is valid, is complete, and is kept to: schemathesis finds nothing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from relay_tornado.handlers.rest import HANDLERS
from relay_tornado.handlers.rest.base import operations
from relay_tornado.handlers.rest.scopes import NEEDS, Need
from tests.handlers.rest.world import World, world

HERE = Path(__file__).parent


def description(folder: Path) -> Any:
    async def run() -> Any:
        async with world(folder) as here:
            return (await here.call("GET", "/openapi.json", token=None)).document

    return asyncio.run(run())


def test_it_is_valid(tmp_path: Path) -> None:
    """As OpenAPI 3.1."""
    document = description(tmp_path)
    assert document["openapi"].startswith("3.1")
    validate(document, cls=OpenAPIV31SpecValidator)


@pytest.mark.gen_test
async def test_it_is_encoded_once(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for it, which takes no token: it has 300 KB."""
    first = (await here.call("GET", "/openapi.json", token=None)).document
    monkeypatch.setattr(msgspec.json, "encode", None)
    assert (await here.call("GET", "/openapi.json", token=None)).document == first


def test_it_is_the_same_in_every_process() -> None:
    """Whatever the order of sets is in it."""
    code = (
        "import msgspec; from relay_tornado.handlers import rest; from relay_tornado.settings import Settings;"
        " print(rest.describe(rest.HANDLERS, Settings()))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            check=True,
            capture_output=True,
            timeout=60,
        ).stdout
        for seed in range(3)
    }
    assert len(said) == 1


def test_it_has_every_endpoint(tmp_path: Path) -> None:
    """Each with its success, its errors, its parameters, and what it asks of the token."""
    paths = description(tmp_path)["paths"]
    assert {(method.upper(), path) for path, item in paths.items() for method in item} == set(NEEDS)
    for (method, path), need in NEEDS.items():
        operation = paths[path][method.lower()]
        assert operation["summary"]
        assert need.value in operation["description"]
        assert (operation["security"] == []) == (need is Need.NOTHING)
        statuses = set(operation["responses"])
        assert statuses & {"200", "201"}
        assert need is Need.NOTHING or {"400", "401", "403"} <= statuses
        named = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path))
        for answer in operation["responses"].values():
            assert "Request-Id" in answer["headers"]


def test_it_has_what_the_forms_say_of_their_fields(tmp_path: Path) -> None:
    """Also where JSON Schema says more than the form."""
    document = json.dumps(description(tmp_path))
    for handler in HANDLERS:
        for endpoint in operations(handler).values():
            for field in endpoint.body.fields.values() if endpoint.body else ():
                assert json.dumps(field.metadata.get("description", "")) in document


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """Every built-in check, on what fits the description and on what does not, against a relay in its own process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    command = [sys.executable, "-m", "relay_tornado"]
    data = ["--data", str(tmp_path / "data")]
    made = subprocess.run(
        [*command, "token", "create", *data, "--json"], env=environment, capture_output=True, timeout=60
    )
    secret = json.loads(made.stdout)["secret"]
    serving = subprocess.Popen(
        [*command, "serve", *data, "--port", "0", "--log-format", "json"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert serving.stderr is not None
        url = next(json.loads(line)["address"] for line in serving.stderr if '"started"' in line)
        ran = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml")),
                *("run", f"{url}/openapi.json", "-H", f"Authorization: Bearer {secret}"),
                *("--checks", "all", "--max-examples", "5", "--generation-codec", "latin-1", "--no-color"),
                *("--continue-on-failure", "--generation-database", "none", "--seed", "1"),
            ],
            env={
                **environment,
                "FUZZ_URL": url,
                "FUZZ_SECRET": secret,
                "SCHEMATHESIS_HOOKS": "fuzz_hooks",
                "PYTHONPATH": str(HERE),
            },
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=800,
        )
        assert ran.returncode == 0, ran.stdout[-8000:]
        summary = ran.stdout[ran.stdout.index("= SUMMARY =") :]
        tested = re.search(r"Tested: (\d+)", summary)
        assert tested is not None, summary
        # All but the description itself.
        assert int(tested[1]) == len(NEEDS) - 1
    finally:
        serving.terminate()
        _, log = serving.communicate(timeout=60)
    assert '"error"' not in log, log[-4000:]
