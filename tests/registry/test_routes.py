"""The index from inputs to their buckets follows the registry."""

from __future__ import annotations

import dataclasses

import pytest

from relay_tornado.model import Bucket, Input, Token
from relay_tornado.registry.memory import MemoryRegistry
from relay_tornado.registry.routes import Routes
from tests.failing import once


def bucket(key: str, *inputs: str) -> Bucket:
    return Bucket(key, key, 0, 0, inputs=tuple(Input(each, each, 0, 0) for each in inputs))


@pytest.mark.gen_test
async def test_a_change_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it fails, each input is found as it is then."""
    registry = MemoryRegistry()
    routes = Routes(registry)
    await registry.put("bucket", "a", bucket("a", "1", "2"))
    await registry.put("bucket", "b", bucket("b", "3"))
    for step in ("_enter", "_follow"):
        with monkeypatch.context() as patch:
            patch.setattr(routes, step, once(getattr(routes, step)))
            await registry.put("bucket", "a", bucket("a", "2", step))
        assert [(route[0].id if (route := routes.find(each)) else None) for each in ("1", "2", "3", step)] == [
            None, "a", "b", "a"
        ]  # fmt: skip


@pytest.mark.gen_test
async def test_routes() -> None:
    """What is there at the start, what is made, changed, moved and deleted: each is found as it is now, and the
    revision tells that something changed; tokens don't count."""
    registry = MemoryRegistry()
    await registry.put("bucket", "a", bucket("a", "1", "2"))
    routes = Routes(registry)

    def found() -> dict[str, str]:
        return {each: route[0].id for each in "1234" if (route := routes.find(each)) and route[1].id == each}

    assert found() == {"1": "a", "2": "a"}
    revisions = [routes.revision]
    await registry.put("bucket", "b", bucket("b", "3"))
    assert found() == {"1": "a", "2": "a", "3": "b"}
    revisions.append(routes.revision)
    await registry.put("bucket", "a", bucket("a", "2", "4"))
    assert found() == {"2": "a", "3": "b", "4": "a"}
    revisions.append(routes.revision)
    await registry.delete("bucket", "a")
    assert found() == {"3": "b"}
    revisions.append(routes.revision)
    assert revisions == sorted(set(revisions))
    await registry.put("token", "t", Token("t", "0", 0))
    assert routes.revision == revisions[-1]


@pytest.mark.parametrize("order", ["ab", "ba"])
@pytest.mark.gen_test
async def test_an_input_that_went_from_one_bucket_to_another(order: str) -> None:
    """It is found in the one that has it by now, in whatever order the two changes are told that were made together."""
    registry = MemoryRegistry()
    placed = dataclasses.replace(bucket("a", "1").inputs[0], path_prefix="/shop")
    before = dataclasses.replace(bucket("a"), inputs=(placed,)), bucket("b", "2")
    after = bucket("a"), dataclasses.replace(bucket("b"), inputs=(placed,))
    routes = Routes(registry)
    for made in (before, after, before, after):
        for each in made:
            registry.store("bucket", each.id, each, 1)
        for key in order:
            registry.tell("bucket", key)
        owner = "a" if made is before else "b"
        route = routes.find("1")
        assert route is not None
        assert route[0].id == owner
        assert routes.locate("x", b"/shop/1") == (placed, b"/shop/1")
        assert (routes.find("2") is None) == (made is after)
