"""What an input answers to its senders."""

from typing import Any

import pytest

from relay_tornado.admin.answers import REFUSED
from relay_tornado.errors import Invalid, NotFound
from relay_tornado.wire.answers import static_answer
from tests.admin.world import OpenWorld


@pytest.mark.gen_test
async def test_an_answer_is_set(open_world: OpenWorld) -> None:
    """Status, body and headers arrive in the record, by the input's id or by its bucket's name, and go out as set."""
    async with open_world() as world:
        bucket = await world.administration.create_bucket("orders")
        headers = {"Content-Type": "text/plain", "X-Many": ["a ", "b"], "X-None": []}
        world.now += 5
        _, changed = await world.administration.set_input(
            bucket.inputs[0].id, status_code=202, body="grüezi\n", headers=headers, name="shop"
        )
        assert changed.headers == {"Content-Type": ["text/plain"], "X-Many": ["a", "b"]}
        assert (changed.status_code, changed.body, changed.name) == (202, "grüezi\n", "shop")
        assert changed.updated_at == world.now
        again, same = await world.administration.set_input("orders", status_code=202)
        assert same == changed
        assert world.registry.get("bucket", bucket.id) == again
        answer = static_answer(changed).encode()
        assert b"X-Many: a\r\nX-Many: b\r\n" in answer
        assert answer.endswith("\r\n\r\ngrüezi\n".encode())


@pytest.mark.gen_test
@pytest.mark.parametrize("name", [*sorted(REFUSED), "Set-Cookie", "CONNECTION"])
async def test_refused_headers(open_memory: OpenWorld, name: str) -> None:
    """A header that is the connection's, the relay's own, or sets state in a browser is refused by its name."""
    async with open_memory() as world:
        await world.administration.create_bucket("orders")
        with pytest.raises(Invalid, match=f"headers: {name} can't be set"):
            await world.administration.set_input("orders", headers={"X-Fine": "1", name: "1"})


def test_nothing_that_is_accepted_is_left_out_later() -> None:
    """What an answer would drop in silence is what is refused when it is set."""
    from relay_tornado.wire import answers

    assert answers._NOT_CONFIGURABLE == REFUSED


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"status_code": 199}, "status_code"),
        ({"status_code": 600}, "status_code"),
        ({"status_code": "200"}, "status_code"),
        ({"status_code": True}, "status_code"),
        ({"body": "x" * 250_001}, "body"),
        ({"body": "ü" * 125_001}, "body"),
        ({"body": "\udcff"}, "body"),
        ({"body": None}, "body"),
        ({"status_code": 204, "body": "x"}, "body"),
        ({"status_code": 304, "body": "x"}, "body"),
        ({"headers": {"X-A": "a\r\nSet-Cookie: b"}}, "headers"),
        ({"headers": {"X-A": ["fine", "a\nb"]}}, "headers"),
        ({"headers": {"X-A": "a\x00"}}, "headers"),
        ({"headers": {"X-A": "\ud800"}}, "headers"),
        ({"headers": {"X A": "a"}}, "headers"),
        ({"headers": {"": "a"}}, "headers"),
        ({"headers": {"X-A:": "a"}}, "headers"),
        ({"headers": {"X-Ä": "a"}}, "headers"),
        ({"headers": {"X-A": "a" * 20_000}}, "headers"),
        ({"headers": {f"X-{number}": "a" for number in range(101)}}, "headers"),
        ({"headers": {"X-A": 1}}, "headers.X-A"),
        ({"headers": {"X-A": [1]}}, "headers.X-A"),
        ({"headers": []}, "headers"),
        ({"name": " "}, "name"),
        ({"function_id": "f"}, "function_id"),
    ],
)
async def test_bad_answers(open_memory: OpenWorld, options: dict[str, Any], field: str) -> None:
    """Each is refused with the field's name, and the input stays as it was."""
    async with open_memory() as world:
        bucket = await world.administration.create_bucket("orders")
        with pytest.raises(Invalid) as caught:
            await world.administration.set_input("orders", **options)
        assert caught.value.field == field
        assert world.registry.get("bucket", bucket.id) == bucket


@pytest.mark.gen_test
async def test_a_status_without_body_needs_the_body_cleared(open_world: OpenWorld) -> None:
    """What was set before counts, too."""
    async with open_world() as world:
        await world.administration.create_bucket("orders")
        await world.administration.set_input("orders", body="x" * 250_000)
        with pytest.raises(Invalid, match="clear the body"):
            await world.administration.set_input("orders", status_code=204)
        _, changed = await world.administration.set_input("orders", status_code=204, body="")
        assert (changed.status_code, changed.body) == (204, "")


@pytest.mark.gen_test
async def test_an_unknown_input(open_world: OpenWorld) -> None:
    """What is neither an input's id nor a bucket's is NotFound, and says where to look."""
    async with open_world() as world:
        with pytest.raises(NotFound, match="relay bucket show"):
            await world.administration.set_input("nothing", body="")
