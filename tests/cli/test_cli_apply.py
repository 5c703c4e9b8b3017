"""`relay apply`: what a file declares is made so, once; the same locally and over REST."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from relay_tornado import patterns
from relay_tornado.admin.administration import Administration
from relay_tornado.cli.manifest import DeclaredBucket
from relay_tornado.cli.plan import plan
from relay_tornado.errors import Unavailable
from tests.cli.manifests import WHOLE, manifest, steps
from tests.cli.runner import Runner
from tests.cli.server import WAYS, reaching, serving


@WAYS
def test_made_once(relay: Runner, tmp_path: Path, way: str) -> None:
    """Everything is made, a dry run before it changes nothing, and a second time there is nothing to change."""
    path = manifest(tmp_path, WHOLE)
    with reaching(relay.data, way) as variables:
        variables = {**variables, "GITHUB_SECRET": "hidden-secret"}
        dry = relay.json("apply", path, "--dry-run", **variables)
        assert dry["applied"] is False
        assert way != "data directory" or not relay.data.exists()
        first = relay.json("apply", path, **variables)
        assert first["applied"] is True
        assert first["changes"] == dry["changes"]
        assert first["changes"][1] == {
            "action": "create",
            "kind": "output",
            "name": "worker",
            "bucket": "orders",
            "fields": ["destination", "name", "rules", "timeout"],
        }
        assert steps(first) == [
            ("create", "bucket", "orders"),
            ("create", "output", "worker"),
            ("create", "input", "orders-github"),
            ("create", "bucket", "billing"),
        ]
        again = relay("apply", path, **variables)
        assert (again.exit_code, again.stdout) == (0, ""), again.output
        assert "nothing to change" in again.stderr
        orders, billing = relay.json("bucket", "list", **variables)
    assert orders["retention"] == {
        "max_age": 604800,
        "max_bytes": 1 << 30,
        "max_events": None,
        "wait_for_consumers": True,
        "hard_max_bytes": 2 << 30,
    }
    assert orders["dedupe"] == {"header": "auto", "window": 43200}
    assert orders["auth"]["password"] == "hidden-password"
    assert orders["max_body"] == 1 << 20
    assert (orders["expires_at"], billing["expires_at"]) == (4_102_444_800, None)
    (made,), (output,) = orders["inputs"], orders["outputs"]
    assert (made["id"], made["status_code"], made["headers"]) == ("orders-github", 202, {"X-Served-By": ["relay"]})
    assert (made["custom_domain"], made["path_prefix"]) == ("Hooks.Example.org", "/shop/")
    assert made["verify"]["secrets"] == ["hidden-secret"]
    assert made["response_from_output"] == output["id"]
    assert (output["name"], output["timeout"]) == ("worker", 30)
    assert [each["name"] for each in billing["inputs"]] == ["Default public endpoint"]


def test_a_destination_that_is_refused(relay: Runner, tmp_path: Path) -> None:
    """A note names the output when it is made, and when its destination changes; a dry run has none."""
    lines = "[buckets.orders.outputs.{}]\ninternal = false\ndestination = 'http://{}/'\n"
    path = manifest(tmp_path, lines.format("crm", "10.0.0.1") + lines.format("shop", "example.org"))
    assert "will not send" not in relay("apply", path, "--dry-run").stderr
    said = relay("apply", path).stderr
    assert "relay: output crm of orders: the relay will not send to this destination: 10.0.0.1 is not" in said
    assert said.count("will not send") == 1
    path = manifest(tmp_path, lines.format("crm", "10.0.0.1") + lines.format("shop", "10.0.0.2"))
    said = relay("apply", path).stderr
    assert "relay: output shop of orders: the relay will not send to this destination: 10.0.0.2 is not" in said
    assert said.count("will not send") == 1


@pytest.mark.parametrize(
    "lines",
    [
        "auth = { type = '' }",
        "dedupe = { header = 'AUTO' }",
        "[buckets.orders.inputs.a]\nstatus_code = 0",
        "[buckets.orders.inputs.a]\nheaders = { x-a = ' b ', X-B = [] }",
        "[buckets.orders.outputs.a]\ntimeout = 0\nthrottle = { enabled = false }\nrules = {}",
    ],
)
def test_what_the_relay_stores_in_another_form_is_no_change(relay: Runner, tmp_path: Path, lines: str) -> None:
    """A second time there is nothing to change, however a value was written."""
    path = manifest(tmp_path, f"[buckets.orders]\n{lines}\n")
    assert relay.json("apply", path)["applied"] is True
    assert relay.json("apply", path)["changes"] == []


def test_the_secrets_in_a_destination_are_not_told(relay: Runner, tmp_path: Path) -> None:
    """Neither its login nor the values of its query: what is printed ends up in the log of whatever runs it."""
    path = manifest(tmp_path, WHOLE)
    relay.json("apply", path, GITHUB_SECRET="s")
    shown = []
    for destination in ("http://u:hidden@h/", "http://u:hidden2@h/", "http://h/?key=hidden3", "http://h/x"):
        path.write_text(re.sub("^destination = .*", f'destination = "{destination}"', path.read_text(), flags=re.M))
        shown.append(relay("apply", path, GITHUB_SECRET="s").stdout.rstrip().partition(": ")[2])
    assert shown == [
        "destination 'http://localhost:9000/hooks' → 'http://***@h/'",
        "destination",
        "destination 'http://***@h/' → 'http://h/?key=***'",
        "destination 'http://h/?key=***' → 'http://h/x'",
    ]


@WAYS
def test_changed(relay: Runner, tmp_path: Path, way: str) -> None:
    """Only what differs is set, and told with its values, but for secrets; nothing is deleted."""
    path = manifest(tmp_path, WHOLE)
    with reaching(relay.data, way) as variables:
        variables = {**variables, "GITHUB_SECRET": "hidden-secret"}
        relay.json("apply", path, **variables)
        for text, other in (("7d", "8d"), ("status_code = 202", "status_code = 204"), ('"order"', '"hidden-order"')):
            path.write_text(path.read_text().replace(text, other))
        (tmp_path / "password").write_text("hidden-new")
        path.write_text(path.read_text().replace("[buckets.billing]", ""))
        changed = relay("apply", path, **variables)
        assert changed.exit_code == 0, changed.output
        lines = changed.stdout.splitlines()
        assert lines == [
            "~ bucket orders: auth, retention",
            "~ output worker of orders: rules",
            "~ input orders-github of orders: status_code 202 → 204",
        ]
        assert "hidden" not in changed.output
        buckets = {each["name"]: each for each in relay.json("bucket", "list", **variables)}
    assert set(buckets) == {"orders", "billing"}
    assert buckets["orders"]["retention"]["max_age"] == 8 * 86400
    assert buckets["orders"]["auth"] == {"type": "basic", "username": "shop", "password": "hidden-new", "token": ""}


@WAYS
def test_a_bucket_becomes_ephemeral(relay: Runner, tmp_path: Path, way: str) -> None:
    """Its durable tokens' positions go with that, and come back when it stores events again."""
    relay.json("bucket", "create", "orders")
    with reaching(relay.data, way) as variables:
        relay.json("token", "create", "--bucket", "orders", "--durable", **variables)
        for ephemeral, positions in (("true", 0), ("false", 1)):
            path = manifest(tmp_path, f"[buckets.orders]\nephemeral = {ephemeral}\n")
            for arguments in (("--dry-run",), ()):
                done = relay.json("apply", path, *arguments, **variables)
                assert steps(done) == [("change", "bucket", "orders")]
            assert relay.json("apply", path, **variables)["changes"] == []
            assert len(relay.json("consumer", "list", "orders", **variables)) == positions


@WAYS
def test_a_public_output_gets_another_destination(relay: Runner, tmp_path: Path, way: str) -> None:
    """As any change: told before it is done, and done once."""
    text = "[buckets.a.outputs.shop]\ninternal = false\ndestination = 'https://shop.example/1'\n"
    with reaching(relay.data, way) as variables:
        relay.json("apply", manifest(tmp_path, text), **variables)
        path = manifest(tmp_path, text.replace("/1", "/2"))
        for arguments in (["--dry-run"], []):
            assert steps(relay.json("apply", path, *arguments, **variables)) == [("change", "output", "shop")]
        (output,) = relay.json("output", "list", **variables)
        assert output["destination"] == "https://shop.example/2"
        assert relay.json("apply", path, **variables)["changes"] == []


@WAYS
def test_pruned(relay: Runner, tmp_path: Path, way: str) -> None:
    """With --prune what is not declared goes, in declared parts only, and not without a yes."""
    with reaching(relay.data, way) as variables:
        relay.json("bucket", "create", "orders", **variables)
        relay.json("input", "create", "orders", "--name", "extra", **variables)
        relay.json("output", "create", "orders", "--name", "old", **variables)
        relay.json("bucket", "create", "other", **variables)
        relay.json("bucket", "create", "kept", **variables)
        relay.json("output", "create", "kept", "--name", "own", **variables)
        path = manifest(tmp_path, "[buckets.orders.outputs.new]\n[buckets.kept]\n")
        assert steps(relay.json("apply", path, "--dry-run", **variables)) == [("create", "output", "new")]
        refused = relay("apply", path, "--prune", **variables)
        assert (refused.exit_code, "--yes" in refused.stderr) == (2, True)
        dry = relay.json("apply", path, "--prune", "--dry-run", **variables)
        assert len(relay.json("bucket", "list", **variables)) == 3
        pruned = relay.json("apply", path, "--prune", "--yes", **variables)
        assert steps(pruned) == steps(dry)
        assert steps(pruned) == [
            ("delete", "bucket", "other"),
            ("delete", "output", "old"),
            ("create", "output", "new"),
        ]
        left = {each["name"]: each for each in relay.json("bucket", "list", **variables)}
    orders, kept = left.pop("orders"), left.pop("kept")
    assert not left
    assert [each["name"] for each in orders["outputs"]] == ["new"]
    assert len(orders["inputs"]) == 2
    assert [each["name"] for each in kept["outputs"]] == ["own"]
    assert len(kept["inputs"]) == 1


def test_what_changes_while_somebody_is_asked(relay: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is done then: a bucket that got a name of the file meanwhile would go, with every event in it."""
    with serving(relay.data):
        relay.json("bucket", "create", "orders-new")
        path = manifest(tmp_path, "[buckets.orders]\n")

        def ask(yes: bool, question: str, *_: str) -> None:
            assert (yes, question) == (False, "Delete 1 thing, and every event in 1 bucket?")
            relay.json("bucket", "set", "orders-new", "--name", "orders")

        monkeypatch.setattr("relay_tornado.cli.apply.ask", ask)
        answer = relay("apply", path, "--prune")
        assert (answer.exit_code, "nothing was changed" in answer.stderr) == (1, True)
        assert [each["name"] for each in relay.json("bucket", "list")] == ["orders"]


def test_rules_that_an_older_relay_took(relay: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may cost more to compile than new ones, as long as they stay as they are."""
    rules = "{ match = { type = 'regex', parameter = { source = 'payload' }, regex = 'NAME' } }"
    text = f"[buckets.a.outputs.x]\nrules = {rules}\n"
    relay.json("apply", manifest(tmp_path, text.replace("NAME", "order")))
    monkeypatch.setattr(patterns, "MAX_INSTRUCTIONS", 3)
    again = relay.json("apply", manifest(tmp_path, text.replace("NAME", "order") + "timeout = '20s'"))
    assert steps(again) == [("change", "output", "x")]
    message = relay.refused("apply", manifest(tmp_path, text.replace("NAME", "orders")))
    assert "output x of a: rules.match.regex: all patterns together" in message
    assert "nothing was changed" in message


@WAYS
@pytest.mark.parametrize("keep", ["[buckets.old]\n[buckets.old.inputs]\n", ""])
def test_an_id_moves(relay: Runner, tmp_path: Path, way: str, keep: str) -> None:
    """An input's id goes to another bucket: with --prune, as what has it is deleted before it is made."""
    with reaching(relay.data, way) as variables:
        relay.json("apply", manifest(tmp_path, "[buckets.old.inputs.moved]\npath_prefix = '/m'\n"), **variables)
        moved = f"[buckets.aaa.inputs.moved]\npath_prefix = '/m'\n{keep}"
        path = manifest(tmp_path, moved)
        assert "input moved of aaa" in relay.refused("apply", path, **variables)
        assert [each["name"] for each in relay.json("bucket", "list", **variables)] == ["old"]
        relay.json("apply", path, "--prune", "--yes", **variables)
        buckets = {each["name"]: each for each in relay.json("bucket", "list", **variables)}
        assert [each["id"] for each in buckets["aaa"]["inputs"]] == ["moved"]
        assert ("old" in buckets) is bool(keep)
        assert relay.json("apply", path, "--prune", "--yes", **variables)["changes"] == []


@WAYS
def test_a_bucket_that_is_made_without_inputs(relay: Runner, tmp_path: Path, way: str) -> None:
    """An empty table declares that there are none: so it is made, and so it is found the next time."""
    path = manifest(tmp_path, "[buckets.a]\n[buckets.a.inputs]\n[buckets.b]\n")
    with reaching(relay.data, way) as variables:
        relay.json("apply", path, **variables)
        assert [len(each["inputs"]) for each in relay.json("bucket", "list", **variables)] == [0, 1]
        assert relay.json("apply", path, "--prune", "--yes", **variables)["changes"] == []


def test_one_that_is_broken_off_leaves_nothing_else(
    relay: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket is never there with an input that has to be taken away in a step of its own."""

    async def broken(*_: object, **__: object) -> None:
        raise Unavailable("the disk fails")

    monkeypatch.setattr(Administration, "delete_input", broken)
    path = manifest(tmp_path, "[buckets.a.inputs.x]\n")
    relay.json("apply", path)
    (made,) = relay.json("bucket", "list")
    assert [each["id"] for each in made["inputs"]] == ["x"]


def test_an_answering_output_is_replaced(relay: Runner, tmp_path: Path) -> None:
    """A pruned output from which an input has its answers goes once the input has another."""
    text = "[buckets.a.outputs.NAME]\ninternal = true\n[buckets.a.inputs.x]\nresponse_from_output = 'NAME'\n"
    relay.json("apply", manifest(tmp_path, text.replace("NAME", "one")))
    replaced = relay.json("apply", manifest(tmp_path, text.replace("NAME", "two")), "--prune", "--yes")
    assert steps(replaced) == [("create", "output", "two"), ("change", "input", "x"), ("delete", "output", "one")]


def test_an_answering_output_is_pruned(relay: Runner, tmp_path: Path) -> None:
    """The plan says which inputs, that the file leaves as they are, answer by themselves then."""
    inputs = "[buckets.a.inputs.x]\nname = 'Shop'\nresponse_from_output = 'one'\n"
    relay.json("apply", manifest(tmp_path, "[buckets.a.outputs.one]\ninternal = true\n" + inputs))
    for left in ("", "[buckets.a.inputs.x]\nname = 'Shop'\n"):
        path = manifest(tmp_path, "[buckets.a.outputs.two]\ninternal = true\n" + left)
        said = relay("apply", path, "--prune", "--dry-run").stdout
        assert "- output one of a: the senders of 'Shop' get the input's own answer then" in said.splitlines()
    relay.json("apply", path, "--prune", "--yes")
    (made,) = relay.json("bucket", "list")
    assert made["inputs"][0]["response_from_output"] == ""


def test_outputs_of_one_name() -> None:
    """A bucket of an older relay may have several: the first is the one that is declared, the others are pruned."""
    outputs = [{"id": each, "name": "twin", "timeout": 5} for each in ("one", "two", "three")]
    declared = [DeclaredBucket("a", {}, None, {"twin": {"timeout": 30}})]
    planned = plan(declared, [{"id": "b", "name": "a", "inputs": [], "outputs": outputs}], prune=True)
    assert [(step.action, step.id) for step in planned] == [("delete", "two"), ("delete", "three"), ("change", "one")]


def test_parts_that_come_and_go(relay: Runner, tmp_path: Path) -> None:
    """A part is made where there is none, changed by what the file says of it, and switched off; headers are as a
    whole what the file says."""
    for text, expected in (
        ("", []),
        ("dedupe = { header = 'X-Id' }", [("change", "bucket", "a")]),
        ("dedupe = { window = '1h' }", [("change", "bucket", "a")]),
        ("dedupe = { header = 'X-Id', window = '1h' }", []),
        ("dedupe = 'none'", [("change", "bucket", "a")]),
        ("retention = { max_age = 3600, max_bytes = 1000000 }", [("change", "bucket", "a")]),
        ("expires_at = 4102444800", [("change", "bucket", "a")]),
        ("expires_at = 2100-01-01\nretention = { max_age = '1h' }", []),
        ("[buckets.a.outputs.o]\nthrottle = { enabled = true, mode = 'rate', rate = 5 }", [("create", "output", "o")]),
        ("[buckets.a.outputs.o]\nthrottle = 'none'", [("change", "output", "o")]),
        ("dedupe = 'none'\n[buckets.a.inputs.x]", [("create", "input", "x")]),
        ("[buckets.a.inputs.x]\nheaders = { A = ' 1 ', B = ['2', '3'], C = [] }", [("change", "input", "x")]),
        ("[buckets.a.inputs.x]\nheaders = { A = ' 1 ', B = ['2', '3'], C = [] }", []),
        ("[buckets.a.inputs.x]\nheaders = { A = '1' }", [("change", "input", "x")]),
        ("[buckets.a.inputs.x]\nheaders = { A = '1' }", []),
    ):
        path = manifest(tmp_path, f"[buckets.a]\n{text}\n")
        if not text:
            relay.json("apply", path)
        assert steps(relay.json("apply", path)) == expected, text
    bucket = relay.json("bucket", "show", "a")
    assert bucket["dedupe"] is None
    assert next(each for each in bucket["inputs"] if each["id"] == "x")["headers"] == {"A": ["1"]}


def test_secrets_that_are_not_shown(relay: Runner, tmp_path: Path) -> None:
    """A token with some buckets can apply a file to them, though it does not see their secrets."""
    relay.json("apply", manifest(tmp_path, WHOLE), GITHUB_SECRET="hidden-secret")
    with serving(relay.data) as server:
        token = relay.json("token", "create", "--bucket", "orders")
        variables = {"RELAY_URL": server.url, "RELAY_SECRET": token["secret"]}
        text = "[buckets.orders]\nauth = { username = 'new' }\n[buckets.orders.inputs.orders-github]\n"
        path = manifest(tmp_path, text + "verify = { on_failure = 'mark' }\n")
        changed = relay.json("apply", path, **variables)
        assert steps(changed) == [("change", "bucket", "orders"), ("change", "input", "orders-github")]
        (orders,) = (each for each in relay.json("bucket", "list") if each["name"] == "orders")
    assert orders["auth"]["password"] == "hidden-password"
    assert orders["inputs"][0]["verify"]["secrets"] == ["hidden-secret"]


def test_the_documents_example(relay: Runner, tmp_path: Path) -> None:
    """The file in docs/commands.md can be applied as it stands."""
    text = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    example = re.search(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert example is not None
    path = manifest(tmp_path, example[1])
    (tmp_path / "shop-password").write_text("p")
    assert len(relay.json("apply", path, GITHUB_SECRET="s")["changes"]) == 3
    assert relay.json("apply", path, GITHUB_SECRET="s")["changes"] == []


def test_what_is_shown_of_a_change(relay: Runner, tmp_path: Path) -> None:
    """No secret, neither the one before nor the one after; a time that is switched off is none."""
    text = "[buckets.a]\nexpires_at = 2100-01-01\n[buckets.a.outputs.o]\nsecret = 'whsec_b2xkLW9sZC1vbGQtb2xk'\n"
    relay.json("apply", manifest(tmp_path, text))
    changed = text.replace("b2xk", "bmV3").replace("2100-01-01", "'none'")
    path = manifest(tmp_path, changed)
    for arguments in (["--dry-run"], []):
        shown = relay("apply", path, *arguments)
        assert shown.exit_code == 0
        assert shown.stdout == "~ bucket a: expires_at 2100-01-01 00:00:00 UTC → never\n~ output o of a: secret\n"
        assert "whsec" not in shown.output
    assert relay.json("apply", path)["changes"] == []
    shown = relay("apply", manifest(tmp_path, text))
    assert shown.stdout.startswith("~ bucket a: expires_at never → 2100-01-01 00:00:00 UTC")


def test_a_time_is_shown_as_a_whole_number_of_seconds(relay: Runner, tmp_path: Path) -> None:
    """On both sides alike, if it is one."""
    shown = []
    for timeout in ("10s", "9s", "1m"):
        path = manifest(tmp_path, f"[buckets.a]\n[buckets.a.outputs.o]\ntimeout = '{timeout}'\n")
        shown.append(relay("apply", path).stdout.rstrip())
    assert shown[1:] == ["~ output o of a: timeout 10 → 9", "~ output o of a: timeout 9 → 60"]
