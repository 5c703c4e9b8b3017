"""`relay serve` as a process: what it prints, and that what it says to do works."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.needs import needs_ipv6
from tests.ports import hold_port, port_of
from tests.serving import RELAY, TIMEOUT, Served, served, shell


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_runs_until_it_is_told(tmp_path: Path, number: int) -> None:
    """It prints one line on stdout when it is ready, and on SIGTERM or Ctrl-C ends with 0."""
    with served(tmp_path) as relay:
        url = relay.url()
        with urllib.request.urlopen(f"{url}/readyz", timeout=TIMEOUT) as answer:
            assert answer.status == 200
        assert relay.end(number) == 0
        assert relay.stdout.startswith(f"listening on {url}\n")
        assert relay.stdout.count("listening on ") == 1
        events = [json.loads(line)["event"] for line in relay.stderr.splitlines()]
        assert [event for event in events if event != "search_index_ready"] == ["started", "stopped"]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_that_means_nothing_to_it(tmp_path: Path, number: signal.Signals) -> None:
    """What has other programs open their logs anew, and would end a program that does not know it, is passed over."""
    with served(tmp_path) as relay:
        url = relay.url()
        relay.process.send_signal(number)
        told = json.loads(relay.wait_for(r'.*"signal_ignored".*')[0])
        assert (told["signal"], told["level"]) == (number.name, "warning")
        with urllib.request.urlopen(f"{url}/readyz", timeout=TIMEOUT) as answer:
            assert answer.status == 200
        assert relay.end() == 0


@pytest.mark.parametrize(("journal", "levels"), [("$(stat -L -c %d:%i /dev/fd/2)", ["<6>", "<4>"]), ("1:1", ["", ""])])
def test_its_levels_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journal: str, levels: list[str]
) -> None:
    """Where systemd says that its journal has stderr, a line begins with its level; not where that is another file."""
    script = f'export JOURNAL_STREAM={journal}; exec "$@"'
    monkeypatch.setattr(Served, "program", ["sh", "-c", script, "sh", *RELAY])
    with served(tmp_path) as relay:
        relay.url()
        relay.process.send_signal(signal.SIGUSR1)
        relay.wait_for('"signal_ignored"')
        assert relay.end() == 0
    lines = [line.partition("{") for line in relay.stderr.splitlines()]
    found = {json.loads(brace + rest)["event"]: level for level, brace, rest in lines}
    assert [found["started"], found["signal_ignored"]] == levels


def test_as_many_descriptors_as_there_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each connection is one: the soft limit, which is meant for other programs, is raised."""
    monkeypatch.setattr(Served, "program", ["sh", "-c", 'ulimit -S -n 256; exec "$@"', "sh", *RELAY])
    with served(tmp_path) as relay:
        relay.url()
        limits = Path(f"/proc/{relay.process.pid}/limits").read_text()
        (line,) = (each for each in limits.splitlines() if each.startswith("Max open files"))
        soft, hard = line.split()[3:5]
        assert soft == hard
        assert relay.end() == 0


def test_what_to_do_next(tmp_path: Path) -> None:
    """On a new directory it says which commands make a bucket and a token; they work as they are printed, and it says
    so only once."""
    data = tmp_path / "my data"
    with served(tmp_path, "--data", str(data)) as relay:
        relay.wait_for("lines to try them")
        printed = [line.strip() for line in relay.stdout.splitlines() if line.startswith("  ")]
        lines = [line for line in printed if " --data " in line and " ui " not in line]
        assert [line.split(" --data ")[0].partition(" -m relay_tornado ")[2] for line in lines] == [
            "bucket create orders",
            "token create --bucket orders",
        ]
        for line in lines:
            assert shell(line)
        assert relay.end() == 0
    with served(tmp_path, "--data", str(data)) as relay:
        relay.url()
        assert relay.end() == 0
        assert "bucket create" not in relay.stdout


def sign_in(link: str, demo: bool = False) -> int:
    """Uses a link's code, as the page does, which is told whether this is the demo; returns the status."""
    url, _, code = link.partition("/ui/#code=")
    headers = {"Origin": url, "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/ui/session", json.dumps({"code": code}).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            told = json.loads(answer.read())
            assert (told["administrator"], told["demo"]) == (True, demo)
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_the_link_to_the_page(tmp_path: Path) -> None:
    """Where there is no token it prints a link, on stdout alone, which signs in once; `relay ui` prints another. Later
    starts print none, but with --demo."""
    link = r"\n  (http://\S+/ui/#code=\S+)\n"
    with served(tmp_path) as relay:
        first = relay.wait_for(link)[1]
        command = relay.wait_for(r"\n  (.* ui --data .*)\n")[1]
        assert [sign_in(first), sign_in(first)] == [200, 401]
        second = shell(command).split("\n")[0]
        assert second.startswith(relay.url())
        assert sign_in(second) == 200
        assert shell(command + " --sign-out-all") == "Signed out: 2.\n"
        shell(command.replace(" ui ", " token create "))
        assert relay.end() == 0
        assert "code" not in relay.stderr
    with served(tmp_path) as relay:
        relay.url()
        assert relay.end() == 0
        assert "/ui/" not in relay.stdout
    with served(tmp_path, "--demo") as relay:
        assert sign_in(relay.wait_for(link)[1], demo=True) == 200
        assert relay.end() == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_one_port_for_two_servers(tmp_path: Path, host: str) -> None:
    """The start is refused before anything is made, and says which options to change."""
    with hold_port() as held:
        port = port_of(held)
        command = [*RELAY, "serve", "--host", host, f"--port={port}", f"--metrics-port={port}"]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT)
    assert (run.returncode, run.stdout) == (1, "")
    assert f"port {port} twice: choose another port with --metrics-port, or with --port" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_the_page(tmp_path: Path) -> None:
    """With --no-ui there is no page, no session and no link, and `relay ui` says so."""
    with served(tmp_path, "--no-ui", "--demo") as relay:
        url = relay.url()
        for path in ("/", "/ui/", "/ui/session", "/ui/static/app.js"):
            with pytest.raises(urllib.error.HTTPError, match="404") as error:
                urllib.request.urlopen(url + path, timeout=TIMEOUT)
            error.value.close()
        relay.wait_for(r"\n  (curl .*)\n")
        assert "/ui/" not in relay.stdout
        run = subprocess.run([*RELAY, "ui"], cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT)
        assert run.returncode == 1
        assert "--no-ui" in run.stderr


@pytest.mark.parametrize("flags", [[], ["--host", "::1"]])
def test_the_demo(tmp_path: Path, flags: list[str]) -> None:
    """`--demo` makes a bucket and a token, and prints a curl line and a client line that work as they are; a second
    time it makes nothing, and says how to go on."""
    if flags:
        needs_ipv6()
    with served(tmp_path, "--demo", *flags) as relay:
        url = relay.url()
        assert ("[::1]" in url) == bool(flags)
        curl = relay.wait_for(r"\n  (curl .*)\n")[1]
        client = relay.wait_for(r"\n  (\S+ -c .*)\n")[1]
        with subprocess.Popen(shlex.split(client), stdout=subprocess.PIPE, text=True) as subscriber:
            assert subscriber.stdout is not None
            try:
                assert json.loads(subscriber.stdout.readline())["status"] == "authenticated"
                assert json.loads(subscriber.stdout.readline())["status"] == "subscribed"
                send(curl)
                frame = json.loads(subscriber.stdout.readline())
                assert (frame["method"], frame["body"], frame["query"]) == ("POST", '{"hello": "world"}', "from=curl")
            finally:
                subscriber.kill()
        secret = relay.wait_for(r"secret (\S+)")[1]
        assert relay.end() == 0
        assert "started" in [json.loads(line)["event"] for line in relay.stderr.splitlines()]
        assert secret not in relay.stderr
    with served(tmp_path, "--demo", *flags) as relay:
        relay.url()
        assert "secret sk-" not in relay.stdout
        send(relay.wait_for(r"\n  (curl .*)\n")[1])
        create = relay.wait_for(r"\n  (.* token create .*)\n")[1]
        (token,) = json.loads(shell(create.replace("token create --bucket demo", "token list --json")))
        assert "sk-rly_" in shell(create)
        listed = json.loads(shell(create.replace("token create --bucket demo", "bucket list --json")))
        assert [bucket["name"] for bucket in listed] == ["demo"]
        assert (token["description"], token["scopes"]["buckets"]) == ("demo", [listed[0]["id"]])


def test_the_demo_without_its_input(tmp_path: Path) -> None:
    """The relay starts, and says how to make one, whatever other buckets have."""
    data = shlex.quote(str(tmp_path / "relay-data"))
    shell(f"{shlex.join(RELAY)} bucket create another --data {data} --json")
    made = json.loads(shell(f"{shlex.join(RELAY)} bucket create demo --data {data} --json"))
    shell(f"{shlex.join(RELAY)} input delete {made['inputs'][0]['id']} --yes --data {data}")
    with served(tmp_path, "--demo") as relay:
        create = relay.wait_for(r"\n  (.* input create .*)\n")[1]
        assert json.loads(shell(create + " --json"))["bucket_id"] == made["id"]


def send(curl: str) -> None:
    """Does what a curl line does."""
    program, url, flag, body = shlex.split(curl)
    assert (program, flag) == ("curl", "-d")
    with urllib.request.urlopen(url, data=body.encode(), timeout=TIMEOUT) as answer:
        assert answer.status == 200


def test_whole_urls(tmp_path: Path) -> None:
    """With a public URL the lines have it; what it listens on stays its address."""
    with served(tmp_path, "--demo", "--public-url", "https://relay.example") as relay:
        assert relay.url().startswith("http://127.0.0.1:")
        assert relay.wait_for(r"\n  curl '(\S+)'")[1].startswith("https://relay.example/v1/webhooks/")
        assert "wss://relay.example/v1/socket" in relay.wait_for(r"-c .*")[0]


def test_a_mistyped_variable(tmp_path: Path) -> None:
    """It is logged once, without its value, with what was perhaps meant; the relay starts all the same."""
    with served(tmp_path, RELAY_MAXBODY="secret-1", RELAY_LOG_FORMAT="json") as relay:
        relay.url()
        (line,) = [json.loads(each) for each in relay.stderr.splitlines() if "unknown_variables" in each]
        assert (line["names"], line["perhaps_meant"]) == (["RELAY_MAXBODY"], {"RELAY_MAXBODY": "RELAY_MAX_BODY"})
        assert line["level"] == "warning"
        assert "secret-1" not in relay.stderr


def test_a_start_that_fails(tmp_path: Path) -> None:
    """What keeps it from starting is one line on stderr and exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with served(tmp_path, "--port", str(port)) as relay:
            assert relay.process.wait(TIMEOUT) == 1
            # The log may have said already that the search index is ready.
            (line,) = (line for line in relay.stderr.splitlines() if not line.startswith("{"))
            assert f"can't listen on 127.0.0.1 port {port}" in line
    with served(tmp_path) as first:
        first.url()
        (tmp_path / "second").mkdir()
        with served(tmp_path / "second", "--data", str(tmp_path / "relay-data")) as second:
            assert second.process.wait(TIMEOUT) == 1
            assert second.stderr.count("\n") == 1
            assert str(first.process.pid) in second.stderr


@pytest.mark.parametrize("limit", [8, 10, 12, 20, 30])
def test_a_start_with_too_few_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """It is one line that says so, wherever they end."""
    monkeypatch.setattr(Served, "program", ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *RELAY])
    with served(tmp_path) as relay:
        assert relay.process.wait(TIMEOUT) == 1
        assert relay.stderr.count("\n") == 1
        assert relay.stderr.startswith("relay: ")
        assert "no more files can be opened" in relay.stderr


def left() -> int:
    """The end to write to of a pipe whose reader has left."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("opened", [left, lambda: os.open("/dev/full", os.O_WRONLY)], ids=["left", "full"])
def test_what_it_prints_can_not_be_written(tmp_path: Path, opened: Callable[[], int], unbuffered: str) -> None:
    """It serves, and ends with 0; the log says once why nothing is printed, and how to get what stood there."""
    stdout = opened()
    try:
        with served(tmp_path, "--demo", stdout=stdout, PYTHONUNBUFFERED=unbuffered) as relay:
            told = json.loads(relay.wait_for(r'.*"not_printed".*')[0])
            assert told["reason"].startswith("standard output: ")
            assert "relay token create" in told["instead"]
            address = relay.wait_for(r'"address": "([^"]+)"')[1]
            with urllib.request.urlopen(f"{address}/readyz", timeout=TIMEOUT) as answer:
                assert answer.status == 200
            assert relay.end() == 0
            assert relay.stderr.count("not_printed") == 1
            assert "Traceback" not in relay.stderr
    finally:
        os.close(stdout)


def test_told_while_it_starts(tmp_path: Path) -> None:
    """A signal at any moment of the start ends it with 0 or by that signal, and leaves the directory free."""
    for delay in (0.3, 0.5):
        with served(tmp_path) as relay:
            time.sleep(delay)
            assert relay.end() in (0, -signal.SIGTERM)
    with served(tmp_path) as relay:
        relay.url()
        assert relay.end() == 0


def test_lines_for_who_has_it_on_the_path(tmp_path: Path) -> None:
    """The lines call the relay as it can be called: by its name where the shell finds it, else by its path."""
    program = Path(sys.executable).with_name("relay")
    others = [folder for folder in os.environ["PATH"].split(":") if not (Path(folder) / "relay").exists()]
    for folders, name in (([str(program.parent), *others], "relay"), (others, str(program))):
        with (tmp_path / "stderr").open("w") as err:
            process = subprocess.Popen(
                [str(program), "serve", "--port", "0", "--data", str(tmp_path / "data")],
                env=os.environ | {"PATH": ":".join(folders)},
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
            )
            try:
                assert process.stdout is not None
                assert process.stdout.readline().startswith("listening on ")
            finally:
                process.terminate()
                said = process.stdout.read() if process.stdout is not None else ""
                process.communicate(timeout=TIMEOUT)
            assert f"  {name} token create --bucket orders --data " in said
