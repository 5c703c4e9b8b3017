"""The start that the README promises, run as it stands there."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.relay import TIMEOUT, Server, wait_for
from tests.acceptance.stock_clients import StockClient, needs_ws
from tests.needs import needs

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()


def block(language: str, part: str) -> str:
    """The README's one block of code in this language that holds this text."""
    [found] = [code for code in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if part in code]
    return str(found)


class Script(Server):
    """`./scripts/serve`, the first line of the README's first block, on a directory and a port of the test's own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "serve.out")
        self.data = folder / "data"

    def command_line(self) -> list[str]:
        line = block("sh", "./scripts/serve").splitlines()[0]
        return ["sh", "-c", f"exec {line}"]

    def environment(self) -> dict[str, str]:
        return super().environment() | {"RELAY_DATA": str(self.data), "RELAY_PORT": str(self.port)}


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    monkeypatch.chdir(ROOT)
    with Script(tmp_path) as script:
        yield script


def test_the_first_steps(serve: Script, tmp_path: Path) -> None:
    """A bucket, a token, a webhook by curl: it arrives in the README's client."""
    needs("curl", "install curl")
    needs_ws()

    def run(line: str) -> str:
        done = subprocess.run(
            ["sh", "-c", line], env=serve.environment(), capture_output=True, text=True, timeout=TIMEOUT
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    create_bucket, create_token, curl = block("sh", "curl").splitlines()
    said = run(create_bucket)
    url = re.search(r"http://\S+/v1/webhooks/[\w-]+", said)
    assert url, said
    assert url[0].startswith(serve.url)
    said = run(create_token)
    key = re.search(r"^key +(\S+)$", said, re.MULTILINE)
    secret = re.search(r"^secret +(sk-rly_\S+)$", said, re.MULTILINE)
    assert key, said
    assert secret, said

    program = tmp_path / "client.js"
    code = block("js", "socket").replace("KEY", key[1]).replace("SECRET", secret[1])
    program.write_text(code.replace("127.0.0.1:8080", f"127.0.0.1:{serve.port}"))
    client = StockClient(["node", str(program)], tmp_path / "client.out")
    try:
        base = "http://127.0.0.1:8080/v1/webhooks/INPUT"
        assert base in curl

        def arrived() -> bool:
            run(curl.replace(base, url[0]))
            return 'POST {"paid": true}' in client.output.read_text()

        wait_for(arrived, "the webhook to arrive in the client")
    finally:
        client.stop()

    # As the README goes on: with a position, the frames of an extended client come, too, and some have no message.
    stock, extended = 'buckets: ["orders"]', 'buckets: ["orders"], "since": "earliest"'
    assert stock in code
    program.write_text(program.read_text().replace(stock, extended))
    client = StockClient(["node", str(program)], tmp_path / "extended.out")
    try:
        wait_for(lambda: "caught_up" in client.output.read_text(), "the client to say that it has caught up")
    finally:
        client.stop()
    assert 'POST {"paid": true}' in client.output.read_text()


def test_the_documents_that_the_readme_names_exist() -> None:
    """Every relative link of the README leads somewhere."""
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]
