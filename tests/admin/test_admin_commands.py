"""The table of commands and the JSON forms that it speaks."""

import json
from typing import Any

import pytest

from relay_tornado.admin.commands import COMMANDS, run_command
from relay_tornado.errors import Conflict, Invalid, NotFound
from tests.admin.forms import BUCKET, INPUT, OUTPUT
from tests.admin.world import OpenWorld, World


async def run(world: World, command: str, **arguments: Any) -> Any:
    """Runs a command as it comes over a socket: through JSON and back."""
    return json.loads(json.dumps(await run_command(world.administration, command, json.loads(json.dumps(arguments)))))


@pytest.mark.gen_test
async def test_a_bucket_has_the_stock_form(world: World) -> None:
    """Its fields, and its input's, are the stock ones and ours, with whole unix seconds and `auth.type` as text."""
    world.now += 0.75
    made = await run(world, "bucket.create", name="orders", options={"auth": {"type": "token", "token": "t"}})
    assert list(made) == BUCKET
    assert made["auth"] == {"type": "token", "username": "", "password": "", "token": "t"}
    assert made["created_at"] == made["updated_at"] == int(world.now)
    assert type(made["created_at"]) is int
    assert (made["account_id"], made["outputs"], made["suspended"], made["static_ip"]) == ("", [], False, False)
    assert made["retention"] == {
        "max_age": 2_592_000,
        "max_events": None,
        "max_bytes": 10 << 30,
        "wait_for_consumers": False,
        "hard_max_bytes": None,
    }
    assert (made["dedupe"], made["max_body"]) == (None, None)
    (only,) = made["inputs"]
    assert list(only) == INPUT
    assert only["bucket_id"] == made["id"]
    assert (only["name"], only["status_code"], only["body"]) == ("Default public endpoint", 200, "")
    assert await run(world, "bucket.show", bucket="orders") == made
    assert await run(world, "bucket.list") == [made]


@pytest.mark.gen_test
async def test_every_command(world: World) -> None:
    """Each does its work and answers in JSON."""
    made = await run(world, "bucket.create", name="orders")
    changed = await run(world, "bucket.set", bucket="orders", options={"dedupe": {"header": "auto", "window": 1.5}})
    assert changed["dedupe"] == {"header": "auto", "window": 1.5}
    answer = await run(world, "input.set", input="orders", options={"headers": {"X-A": "b"}})
    assert answer["headers"] == {"X-A": ["b"]}
    second = await run(world, "input.create", bucket="orders", options={"id": "static-1", "name": "second"})
    assert list(second) == INPUT
    assert (await run(world, "input.set", input="static-1", options={"status_code": 0}))["status_code"] == 200
    output = await run(world, "output.create", bucket="orders", options={"name": "out", "timeout": 30})
    assert list(output) == OUTPUT
    assert (output["number"], output["bucket_id"], output["timeout"]) == (1, made["id"], 30)
    output = await run(world, "output.set", output="out", bucket="orders", options={"disabled": True})
    assert output["disabled"] is True
    with pytest.raises(Conflict, match="2 inputs and 1 output:"):
        await run(world, "bucket.delete", bucket="orders")
    answer = await run(world, "output.delete", output="orders")
    assert answer == {"id": output["id"], "status": "deleted"}
    answer = await run(world, "input.delete", input="second", bucket="orders")
    assert answer == {"id": "static-1", "status": "deleted"}
    token = await run(world, "token.create", options={"buckets": ["orders"], "api_access": False})
    assert list(token) == ["key", "secret"]
    (listed,) = await run(world, "token.list")
    assert listed["key"] == listed["id"] == token["key"]
    assert listed["scopes"] == {"buckets": [made["id"]], "tunnels": []}
    assert (listed["api_access"], listed["expires_at"]) == ("disabled", None)
    assert token["secret"] not in json.dumps(listed)
    assert await run(world, "token.revoke", key=token["key"]) == {"id": token["key"], "status": "deleted"}
    assert await run(world, "bucket.delete", bucket="orders") == {"id": made["id"], "status": "deleted"}
    assert await run(world, "bucket.list") == []
    assert (await run(world, "relay.info"))["url"] is None


@pytest.mark.gen_test
async def test_bad_arguments(open_memory: OpenWorld) -> None:
    """What a command does not take is refused by its name, and so is a command that is not there."""
    async with open_memory() as world:
        await world.administration.create_bucket("orders")
        for command, arguments, field in (
            ("bucket.create", {}, "name"),
            ("bucket.create", {"name": None}, "name"),
            ("bucket.create", {"name": 5}, "name"),
            ("bucket.create", {"name": "a", "options": []}, "options"),
            ("bucket.create", {"name": "a", "options": {"name": "b"}}, "name"),
            ("bucket.create", {"name": "a", "colour": "red"}, "colour"),
            ("bucket.delete", {"bucket": "orders", "force": "perhaps"}, "force"),
            ("output.create", {"bucket": "orders", "options": {"timeout": 181}}, "timeout"),
            ("output.delete", {}, "output"),
            ("input.set", {"options": {}}, "input"),
            ("token.revoke", {"key": ["a"]}, "key"),
            ("bucket.list", {"all": True}, "all"),
            ("bucket.destroy", {}, "command"),
            ("", {}, "command"),
        ):
            with pytest.raises(Invalid) as caught:
                await run_command(world.administration, command, arguments)
            assert caught.value.field == field, (command, arguments)
        with pytest.raises(NotFound):
            await run(world, "bucket.show", bucket="nothing")


def test_every_command_stands_in_the_table_once() -> None:
    """A command is named `<noun>.<verb>`, and has a function of its own."""
    assert all(name.count(".") == 1 for name in COMMANDS)
    assert len({id(run) for run in COMMANDS.values()}) == len(COMMANDS)
