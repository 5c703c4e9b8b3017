"""`relay apply`: what is wrong with a file is named before anything is changed, and what failed afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.manifests import manifest
from tests.cli.runner import Runner
from tests.cli.server import serving


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[buckets.orders\nstream = true", "line 1"),
        ("a = 1\nb = nonsense", "line 2"),
        ("[bucket.orders]", "bucket: there is no such key"),
        ("[buckets.orders]\ndestination = 1", "buckets.orders.destination: there is no such field"),
        ("[buckets.orders]\ndestination = 1", "there is no such field here; there are description, "),
        (
            "[buckets.orders.inputs.a]\nsecret = 1",
            "there is no such field here; there are name, description, status_code",
        ),
        ("[buckets.orders.outputs.a]\nfoo = 'b'", "there is no such field here; there are description, destination"),
        ("[buckets.orders]\nsuspended = true", "buckets.orders.suspended: can't be set: leave it out"),
        ("[buckets.orders]\nauth = { type = 'none', id = 'b' }", "buckets.orders.auth.id: can't be set: leave it out"),
        ("[buckets.orders.inputs.a]\ncreated_at = 1", "buckets.orders.inputs.a.created_at: can't be set"),
        ("[buckets.orders.outputs.a]\nid = 'b'", "buckets.orders.outputs.a.id: can't be set: leave it out"),
        (
            "[buckets.orders.input.a]\nname = 'b'",
            "input: there is no such table: inputs are declared as [buckets.orders.i",
        ),
        ("[buckets.orders.output.a]\ntimeout = 1", "outputs are declared as [buckets.orders.outputs.NAME]"),
        ("[buckets.orders]\nname = 'x'", "buckets.orders.name"),
        ("[buckets.orders]\nstream = 'yes'", "buckets.orders.stream: must be true or false"),
        ("[buckets.orders]\nretention = { max_age = 'soon' }", "buckets.orders.retention.max_age"),
        ("[buckets.orders]\nauth = { type = 'basic', password = { env = 'NOT_SET' } }", "NOT_SET is not set"),
        ("[buckets.orders]\nauth = { password = { file = 'missing' } }", "missing can't be read"),
        ("[buckets.orders]\nauth = { password = { other = 'x' } }", "buckets.orders.auth.password"),
        ("[buckets.orders.inputs.a]\nid = 'b'", "buckets.orders.inputs.a.id"),
        ("[buckets.orders.outputs.'a b']\ndestinaton = 'x'", 'buckets.orders.outputs."a b".destinaton'),
        ("[buckets.orders.outputs.a]\nrules = { match = { type = 'x' } }", "buckets.orders.outputs.a.rules"),
        ("[buckets.orders]\ndedupe = 'auto'", "buckets.orders.dedupe: must be a table: { … }"),
        ("buckets = 1", "buckets: must be a table"),
        ("[buckets]\norders = 1", "buckets.orders: must be a table"),
        ("[buckets.orders]\ninputs = 1", "buckets.orders.inputs: must be a table"),
        ("[buckets.orders.inputs]\na = 1", "buckets.orders.inputs.a: must be a table"),
        ("[buckets.orders.outputs.a]\nname = 'b'", "buckets.orders.outputs.a.name"),
        ("[buckets.orders.inputs.a]\nname = ''", "buckets.orders.inputs.a.name: is empty"),
        ("[buckets.orders]\nmax_body = 'much'", "buckets.orders.max_body"),
        (f"[buckets.orders]\nretention = {{ max_bytes = '{'9' * 400}GiB' }}", "buckets.orders.retention.max_bytes"),
        ("[buckets.orders]\nmax_body = 'x'\nauth = 'none'", "buckets.orders"),
        ("[buckets.orders]\nauth = { token = { env = 1 } }", "buckets.orders.auth.token: must be a text"),
        ("[buckets.orders]\nauth = { token = { file = 1 } }", "buckets.orders.auth.token: must be a text"),
        ("[buckets.orders]\nauth = { token = { env = 'A', file = 'B' } }", "buckets.orders.auth.token: must be a text"),
        ("[buckets.orders]\nauth = { token = { file = 'latin' } }", "latin can't be read: it is not UTF-8"),
        ('[buckets.orders]\nauth = { token = { file = "a\\u0000b" } }', "can't be read: a name has no NUL"),
        (
            "[buckets.orders.inputs.a]\nverify = { secrets = [{ env = 'NOT_SET' }] }",
            "a.verify.secrets: the variable NOT",
        ),
        ("[buckets.orders.inputs.a]\nheaders = 1", "buckets.orders.inputs.a.headers"),
        (f"a = {'[' * 100_000}", "relay.toml: "),
    ],
)
def test_what_is_wrong_is_named(relay: Runner, tmp_path: Path, text: str, said: str) -> None:
    """By its line or its key, before anything is changed."""
    path = manifest(tmp_path, "[buckets.good]\n" + text if text.startswith("[buckets.orders]") else text)
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    message = relay.refused("apply", path)
    assert said in message
    assert str(path) in message
    assert not relay.data.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[buckets.'a/b']", "bucket a/b: name: holds a"),
        ("[buckets.new.inputs.taken]", "input taken of new: the input id taken is taken"),
        ("[buckets.new.inputs.'a b']", "input a b of new: id: must be"),
        ("[buckets.new.inputs.x]\npath_prefix = '/shop'", "input x of new: another input has path_prefix /shop"),
        ("[buckets.new.inputs.x]\ncustom_domain = 'hooks.example.org'", "another input has hooks.example.org"),
        ("[buckets.new.inputs.x]\nresponse_from_output = 'none'", "input x of new: response_from_output"),
        ("[buckets.new.outputs.x]\ninternal = false\ndestination = 'ftp://x'", "output x of new: destination"),
        ("[buckets.new]\nauth = { type = 'basic' }", "bucket new: auth.username: is missing"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_what_the_relay_would_refuse(relay: Runner, tmp_path: Path, text: str, said: str, dry: bool) -> None:
    """The step is named before the first change is made, in a dry run, too. A place is taken in any spelling."""
    relay.json("bucket", "create", "other")
    relay.json("input", "create", "other", "--id", "taken", "--path-prefix", "/shop/")
    relay.json("input", "create", "other", "--custom-domain", "Hooks.Example.org")
    before = relay.json("bucket", "list")
    path = manifest(tmp_path, f"[buckets.good]\n{text}\n")
    message = relay.refused("apply", path, *(["--dry-run"] if dry else []))
    assert said in message
    assert "nothing was changed" in message
    assert relay.json("bucket", "list") == before


@pytest.mark.parametrize("named", ["NAME", "ID"])
def test_an_output_that_is_pruned_and_named(relay: Runner, tmp_path: Path, named: str) -> None:
    """The input would answer by itself then, and the next run fail."""
    relay.json("bucket", "create", "a")
    output = relay.json("output", "create", "a", "--name", "one", "--internal", "--destination", "http://localhost/")
    answering = output["id"] if named == "ID" else "one"
    text = f"[buckets.a.inputs.x]\nresponse_from_output = '{answering}'\n"
    relay.json("apply", manifest(tmp_path, text))
    before = relay.json("bucket", "list")
    path = manifest(tmp_path, f"{text}[buckets.a.outputs.two]\ninternal = true\n")
    message = relay.refused("apply", path, "--prune", "--yes")
    assert f"{path}: input x of a: response_from_output: the file does not declare the output" in message
    assert "nothing was changed" in message
    assert relay.json("bucket", "list") == before
    relay.json("apply", path)


def test_an_empty_file_prunes_nothing(relay: Runner, tmp_path: Path) -> None:
    """A file that was cut to nothing on its way deletes no bucket, whoever said yes."""
    relay.json("bucket", "create", "orders")
    for text in ("", "# [buckets.orders]\n", "[buckets]\n"):
        assert "declares no bucket" in relay.refused("apply", manifest(tmp_path, text), "--prune", "--yes")
    assert [each["name"] for each in relay.json("bucket", "list")] == ["orders"]


def test_a_bucket_that_would_be_too_large(relay: Runner, tmp_path: Path) -> None:
    """The input that there is no room for is named before the first change is made; a command says the same of it."""
    relay.json("bucket", "create", "other")
    (tmp_path / "body").write_text("x" * 250_000)
    inputs = "".join(f"[buckets.new.inputs.i{n:02}]\nbody = '{'x' * 250_000}'\n" for n in range(17))
    message = relay.refused("apply", manifest(tmp_path, inputs))
    assert "input i16 of new: the record of the bucket 'new', with its inputs and outputs, would have 42" in message
    assert message.endswith("or put them into another bucket (nothing was changed)")
    assert [each["name"] for each in relay.json("bucket", "list")] == ["other"]
    fits = inputs[: inputs.index("[buckets.new.inputs.i16]")]
    relay.json("apply", manifest(tmp_path, fits))
    refused = relay.refused("input", "create", "new", "--body-file", tmp_path / "body")
    assert refused.startswith("the record of the bucket 'new', with its inputs and outputs, would have 42")


def test_an_id_declared_twice(relay: Runner, tmp_path: Path) -> None:
    """An input's id that the file gives to two buckets is refused by its key."""
    path = manifest(tmp_path, "[buckets.a.inputs.x]\n[buckets.b.inputs.x]\n")
    assert "buckets.b.inputs.x: the id is declared of the bucket 'a' already" in relay.refused("apply", path)
    assert not relay.data.exists()


def test_a_step_that_fails_in_the_middle(relay: Runner, tmp_path: Path) -> None:
    """What only the relay knows, as a token's rights: it is said which step it was, and that others are done."""
    relay.json("bucket", "create", "orders")
    path = manifest(tmp_path, "[buckets.orders]\ndescription = 'mine'\n[buckets.new]\n")
    with serving(relay.data) as server:
        token = relay.json("token", "create", "--bucket", "orders")
        said = relay("apply", path, RELAY_URL=server.url, RELAY_SECRET=token["secret"])
        assert said.exit_code == 1
        assert said.stderr.startswith("relay: bucket new: ")
        assert said.stderr.endswith(" (1 of 2 changes made; apply the file again after mending it)\n")
        assert [(each["name"], each["description"]) for each in relay.json("bucket", "list")] == [("orders", "mine")]


def test_a_url_that_is_no_relays(relay: Runner, tmp_path: Path) -> None:
    """Nothing is planned as if there were no bucket."""
    relay.json("bucket", "create", "orders")
    path = manifest(tmp_path, "[buckets.orders]\n")
    with serving(relay.data) as server:
        for arguments in ((), ("--dry-run",)):
            relay.refused("apply", path, *arguments, RELAY_URL=f"{server.url}/other", RELAY_SECRET=server.secret)


def test_no_file(relay: Runner, tmp_path: Path) -> None:
    """It is said which one can't be read, and which one is no text."""
    assert "none.toml can't be read" in relay.refused("apply", tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"[buckets.'caf\xe9']\n")
    assert "latin.toml is not UTF-8 text" in relay.refused("apply", tmp_path / "latin.toml")
