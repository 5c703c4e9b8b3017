"""The API's description is valid, is complete, and is kept to: schemathesis finds nothing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from relay_tornado.errors import NoSpace
from relay_tornado.handlers.rest import HANDLERS
from relay_tornado.handlers.rest.base import operations
from relay_tornado.handlers.rest.endpoints import ENDPOINTS, Need
from relay_tornado.handlers.rest.openapi_names import refer, references, referred
from relay_tornado.log.sqlite import SqliteEventLog
from tests.handlers.raw import Raw, Reply, basic
from tests.handlers.rest.rows import ROWS, filled, populate
from tests.handlers.rest.world import World, world

HERE = Path(__file__).parent
OF_PUBLIC = ("/position", "/seek", "/replay", "/dead", "/resend")
"""What only an output has that the relay itself forwards to."""


def description(folder: Path) -> Any:
    async def run() -> Any:
        async with world(folder) as here:
            return (await here.call("GET", "/openapi.json", token=None)).document

    return asyncio.run(run())


def resolved(document: Any, answer: Any) -> Any:
    """An answer of the description, or what it refers to."""
    return document["components"]["responses"][answer["$ref"].rpartition("/")[2]] if "$ref" in answer else answer


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
    document = description(tmp_path)
    paths = document["paths"]
    assert {(method.upper(), path) for path, item in paths.items() for method in item} == set(ENDPOINTS)
    for (method, path), (need, _, _) in ENDPOINTS.items():
        operation = paths[path][method.lower()]
        assert operation["summary"]
        assert need.value in operation["description"]
        assert (operation["security"] == []) == (need is Need.NOTHING)
        statuses = set(operation["responses"])
        assert statuses & {"200", "201"}
        assert need is Need.NOTHING or {"401", "403"} <= statuses
        named = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path))
        for answer in operation["responses"].values():
            assert "Request-Id" in resolved(document, answer)["headers"]


def test_it_has_what_the_forms_say_of_their_fields(tmp_path: Path) -> None:
    """Also where JSON Schema says more than the form."""
    document = json.dumps(description(tmp_path))
    for handler in HANDLERS:
        for endpoint in operations(handler).values():
            for field in endpoint.body.fields.values() if endpoint.body else ():
                assert json.dumps(field.metadata.get("description", "")) in document


def test_each_field_and_parameter_is_described(tmp_path: Path) -> None:
    """Whoever reads nothing else knows what it means."""
    document = description(tmp_path)
    for name, schema in document["components"]["schemas"].items():
        for field, facts in schema.get("properties", {}).items():
            assert facts.get("description"), f"{name}.{field}"
    for path, item in document["paths"].items():
        for method, endpoint in item.items():
            for parameter in endpoint["parameters"]:
                assert parameter.get("description"), f"{method} {path} {parameter['name']}"


def test_an_answers_fields_say_what_the_requests_say(tmp_path: Path) -> None:
    """And parts of a bucket, an input and an output have the same fields in both."""
    schemas = description(tmp_path)["components"]["schemas"]
    asked, given = schemas["OutputUpdate"]["properties"], schemas["Output"]["properties"]
    assert given["timeout"]["description"] == asked["timeout"]["description"]
    for part in ("Throttle", "Durability", "Retention", "Dedupe", "RateLimit", "Verify"):
        one, other = (
            {field: facts["description"] for field, facts in schemas[name]["properties"].items()}
            for name in (part, f"{part}Fields")
        )
        assert one == other
    assert asked["throttle"]["anyOf"][0] == refer("ThrottleFields")
    assert given["throttle"]["anyOf"][0] == refer("Throttle")


def reached(document: Any, part: Any) -> set[str]:
    """The names of the types that a part of the description is made of."""
    found: set[str] = set()
    waiting = {referred(each) for each in references(part)}
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= {referred(each) for each in references(document["components"]["schemas"][name])} - found
    return found


def test_answers_are_open_and_requests_are_closed(tmp_path: Path) -> None:
    """A client accepts a later version's fields; a misspelt field is refused, but where it would be stored."""
    document = description(tmp_path)
    schemas = document["components"]["schemas"]
    endpoints = [each for item in document["paths"].values() for each in item.values()]
    given = reached(document, [[each["responses"] for each in endpoints], document["components"]["responses"]])
    asked = reached(document, [each.get("requestBody") for each in endpoints])
    assert given.isdisjoint(asked)
    assert [name for name in sorted(given) if "additionalProperties" in schemas[name]] == []
    stored = {f"{prefix}{kind}{suffix}" for kind in ("Bucket", "Input", "Output") for prefix, suffix in KINDS}
    known = {"AnswerRequest", "ThrottleFields", "DurabilityFields", "Rules", "Match"}
    assert {name for name in asked if schemas[name].get("additionalProperties") is not False} == stored | known


KINDS = (("New", ""), ("", "Update"))
CUSTOM = {"enabled": True, "schedule": "custom"}


def test_an_object_is_no_choice_of_types(tmp_path: Path) -> None:
    """Of `anyOf`, `oneOf` and `allOf` beside `properties`, generators of clients make types without the fields."""
    schemas = description(tmp_path)["components"]["schemas"]
    choices = {"anyOf", "oneOf", "allOf"}
    assert [name for name, schema in schemas.items() if "properties" in schema and choices & schema.keys()] == []


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("AuthFields", {"type": "basic", "username": "u", "password": "p"}, {"type": "basic"}),
        ("AuthFields", {"type": "none"}, {"type": "none", "token": "t"}),
        ("ThrottleFields", {"enabled": True, "mode": "rate", "rate": 1}, {"enabled": True, "mode": "rate"}),
        ("ThrottleFields", {"enabled": False}, {"enabled": True, "mode": "concurrency"}),
        (
            "DurabilityFields",
            {"enabled": True, "schedule": "custom", "custom_delays": [1]},
            {"enabled": True, "schedule": "custom"},
        ),
        ("NewOutput", {"internal": True}, {"internal": False}),
        ("NewOutput", {"internal": False, "destination": "https://shop.example/"}, {"internal": False, "name": "o"}),
        ("AnswerRequest", {"status": "sent"}, {"duration_ms": 1}),
        ("DeadLettersRequest", {"all": True}, {"all": True, "ids": []}),
        ("SampleRequest", {"provider": "github", "event": "push"}, {"provider": "stripe", "event": "push"}),
        ("NewInput", {"status_code": 0}, {"status_code": 100}),
        ("NewBucket", {"name": "b", "static_ip": True}, {"name": "b", "static_ip": 1}),
        ("BucketUpdate", {"static_ip": None}, {"static_ip": "no"}),
    ],
)
def test_which_fields_go_together_is_described(tmp_path: Path, name: str, good: Any, bad: Any) -> None:
    """To whoever checks a request by the description."""
    document = description(tmp_path)
    form = Draft202012Validator({**refer(name), "components": document["components"]})
    assert form.is_valid(good)
    assert not form.is_valid(bad)


def test_operations_and_types_have_names_for_programs(tmp_path: Path) -> None:
    """Each its own, also in languages that ignore case, and each operation one group."""
    document = description(tmp_path)
    endpoints = [each for item in document["paths"].values() for each in item.values()]
    names = [each["operationId"] for each in endpoints]
    assert all(re.fullmatch("[a-z]+([A-Z][a-z]+)*", name) for name in names)
    assert len({name.lower() for name in names}) == len(names) == len(ENDPOINTS)
    assert {group for each in endpoints for group in each["tags"]} == {each["name"] for each in document["tags"]}
    types = document["components"]["schemas"]
    assert all(re.fullmatch("([A-Z][a-z]+)+", name) for name in types)
    assert [name for name in types if name.endswith(("Answer", "Body"))] == []


@pytest.mark.timeout(300)
def test_each_refusal_that_is_described_is_given(tmp_path: Path) -> None:
    """What is wrong with the request, its path, its query or its sender: in the described form, with its headers."""

    async def run() -> list[str]:
        async with world(tmp_path) as here:
            document = (await here.call("GET", "/openapi.json", token=None)).document
            things = await populate(here, 0)
            form = Draft202012Validator(document["components"]["schemas"]["Problem"])
            wrong = []
            for path, item in document["paths"].items():
                for method, endpoint in item.items():
                    for status in sorted(set(endpoint["responses"]) & {"400", "401", "403", "404", "413", "415"}):
                        reply = await refused(here, method.upper(), path, endpoint, status, things)
                        headers = resolved(document, endpoint["responses"][status])["headers"]
                        there = {name.lower() for name, _ in reply.headers}
                        kept = form.is_valid(json.loads(reply.body)) and {each.lower() for each in headers} <= there
                        if reply.status != int(status) or not kept:
                            wrong.append(f"{method} {path}: not {status}, but {reply.status} {reply.body.decode()}")
            return wrong

    assert asyncio.run(run()) == []


async def refused(here: World, method: str, path: str, endpoint: Any, status: str, things: dict[str, str]) -> Reply:
    """The answer to a request that has what leads to this status."""
    public = path.endswith(OF_PUBLIC)
    names = {**things, "output": things["public"]} if public else things
    query = next((each["name"] for each in endpoint["parameters"] if each["in"] == "query"), "")
    headers = {"Authorization": basic(*here.tokens["administrator"])}
    body, length = b"{}", 2
    match status:
        case "400" if "requestBody" in endpoint:
            body, length = b"[]", 2
        case "400" if query:
            path += f"?{query}=%ff"
        case "400":
            names = dict.fromkeys(names, "%ff")
        case "401":
            headers = {}
        case "403":
            headers["Origin"] = "https://elsewhere.example"
        case "404":
            names = dict.fromkeys(names, "k3v9x1q7m2ab-99")
            path += "?bucket=nothing" if "{" not in path else ""
        case "413":
            body, length = b"", 20 << 20
        case "415":
            headers["Content-Type"] = "text/plain"
            body, length = b"hello", 5
    if method in ("GET", "DELETE"):
        body, length = b"", 0
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"{method} {path.format(**names)} HTTP/1.1\r\nHost: relay.test\r\n{lines}Content-Length: {length}\r\n\r\n"
    async with Raw(here.relay.port) as raw:
        return await raw.ask(head.encode() + body)


@pytest.mark.gen_test
async def test_a_full_disk_is_described_wherever_something_is_stored(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """507 with Retry-After, and nowhere else."""
    document = (await here.call("GET", "/openapi.json", token=None)).document
    rows = [row for row in ROWS if row[0] != "GET" or row[1].startswith("/v1/events")]
    outputs = "/v1/buckets/{bucket}/outputs"
    match = {"type": "value", "parameter": {"source": "header", "name": "X-Kind"}, "value": "order"}
    bodies = {outputs: {"name": "new"}, f"{outputs}/{{output}}": {"name": "new"}}
    bodies[f"{outputs}/{{output}}/rules"] = {"match": match}
    wrong = []
    writer = cast("SqliteEventLog", here.site.rest.stored.log)._database._writer
    for number, (method, path, body, _) in enumerate(rows):
        if method == "DELETE" and path.endswith(("/rules", "/dead?all=true")):
            continue  # there are none
        things = await populate(here, number)
        monkeypatch.setattr(writer, "trouble", NoSpace("the disk is full"))
        answer = await here.call(method, path.format(**things), bodies.get(path, filled(body, things)))
        monkeypatch.undo()
        endpoint = document["paths"][path.partition("?")[0].replace("{public}", "{output}")][method.lower()]
        if (answer.status == 507) != ("507" in endpoint["responses"]):
            wrong.append(f"{method} {path}: {answer.status} {answer.document}")
        assert answer.status != 507 or answer.headers["Retry-After"] == "60"
    assert wrong == []


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
        assert int(tested[1]) == len(ENDPOINTS) - 1
    finally:
        serving.terminate()
        _, log = serving.communicate(timeout=60)
    assert '"error"' not in log, log[-4000:]
