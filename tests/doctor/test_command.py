"""`relay doctor` on a real relay."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from relay_tornado.errors import RelayError
from tests.acceptance.relay import TIMEOUT, Relay, wait_for


def findings(relay: Relay, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code of `relay doctor`, and its findings by their names."""
    run = relay.run("doctor", *arguments, "--json")
    return run.returncode, {each["name"]: each for each in json.loads(run.stdout)}


def test_a_relay_that_runs(disk_path: Path) -> None:
    """It looks at machine and URL, watches a socket, leaves no token behind, and says 3 where the URL is wrong."""
    with Relay(disk_path / "data") as relay:
        relay.create_bucket("orders")
        code, said = findings(relay, "--idle", "1")
        assert code == 0
        assert said["url"]["level"] == said["socket"]["level"] == said["idle"]["level"] == "ok"
        assert said["running"]["level"] == "ok"
        assert relay.command("token", "list") == []
        run = relay.run("doctor", "--idle", "0", "--public-url", "http://127.0.0.1:9")
        assert run.returncode == 3
        assert "http://127.0.0.1:9/healthz does not answer" in run.stdout
        assert "\nurl: look at" in run.stdout
    with Relay(disk_path / "data", public_url="http://127.0.0.1:9") as relay:
        run = relay.run("doctor", "--idle", "0")
        assert (run.returncode, "http://127.0.0.1:9/healthz does not answer" in run.stdout) == (3, True)


def test_the_reserve_is_that_of_the_relay_that_runs(tmp_path: Path) -> None:
    """What it was started with counts, and not what a shell without its settings would give."""
    with Relay(tmp_path / "data", reserve="5MiB") as relay:
        _, said = findings(relay, "--idle", "0")
        assert said["space"]["says"].endswith("webhooks are refused at 5")
        assert relay.command("stats")["reserve"] == 5 << 20
    assert relay.command("stats")["reserve"] > 5 << 20


def test_a_public_url_whose_host_is_none(tmp_path: Path) -> None:
    """It is said beside everything else, with a relay that runs and without one."""
    with Relay(tmp_path / "data", public_url="https://a+b.test") as relay:
        relay.create_bucket("orders")
        code, said = findings(relay, "--idle", "0")
        assert code == 3
        assert "'a+b.test' is no host" in said["url"]["says"]
        assert "--public-url" in said["url"]["remedy"]
        assert said["running"]["level"] == "ok"
        assert "readers" in said
        assert "control" not in said
    _, said = findings(relay, "--public-url", "https://a+b.test")
    assert said["url"]["level"] == "fail"
    assert len(said) > 1


def test_why_webhooks_do_not_arrive(disk_path: Path) -> None:
    """Refused webhooks, an output that is paused and a bucket that nobody reads are found; all that is logged, too."""
    with Relay(disk_path / "data") as relay:
        path = relay.create_bucket("orders", "--auth", "token", "--token", "the-token")
        relay.create_bucket("billing")
        destination = ("--public", "--destination", "https://shop.example.org")
        relay.command("output", "create", "billing", "--name", "shop", *destination)
        relay.command("output", "pause", "shop", "--bucket", "billing")
        for target in (path, "/v1/webhooks/deleted"):
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(urllib.request.Request(relay.url + target, data=b"x"), timeout=TIMEOUT)
        said = relay.command("doctor", "--idle", "0")
        again = relay.command("doctor", "--idle", "0")
        log = relay.said()
    told = {each["says"].partition(":")[0]: each["remedy"] for each in said if each["level"] == "warn"}
    assert "--auth" in told["bucket orders, input Default public endpoint"]
    assert "relay bucket show" in told["unknown URLs"]
    assert "relay output resume" in told["billing, shop"]
    assert all("1 webhook refused" in each["says"] for each in again if each["name"] == "refused")
    assert log.count('"webhooks_refused"') == 2
    assert log.count('"bucket_changed"') == 2
    assert "the-token" not in log
    assert path.rpartition("/")[2] not in log


def test_a_relay_that_can_store_nothing(tmp_path: Path) -> None:
    """What that relay says of itself is said, although no token can be created to watch a socket with."""
    with Relay(tmp_path / "data") as relay:
        relay.create_bucket("orders")
        resource.prlimit(relay.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        with pytest.raises(RelayError):
            relay.create_token()
        code, said = findings(relay, "--idle", "1")
        assert code == 3
        assert "events can't be committed" in said["ready"]["says"]
        assert (said["token"]["level"], said["url"]["level"], said["socket"]["level"]) == ("fail", "ok", "ok")
        assert "idle" not in said


def test_the_token_for_its_socket(tmp_path: Path) -> None:
    """It may do no more than connect and read one bucket, and goes with the command, also where that is broken off."""
    with Relay(tmp_path / "data") as relay:
        relay.create_bucket("orders")
        relay.create_bucket("billing")
        command = [sys.executable, "-m", "relay_tornado", "doctor", "--idle", "600s"]
        doctor = subprocess.Popen(
            command, env=relay.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            wait_for(lambda: relay.call("client.list"), "the socket")
            (token,) = relay.call("token.list")
            assert (token["api_access"], len(token["scopes"]["buckets"])) == ("disabled", 1)
            assert time.time() + 600 < token["expires_at"] < time.time() + 1800
            doctor.send_signal(signal.SIGINT)
            assert doctor.wait(TIMEOUT) == 130
            assert relay.call("token.list") == []
        finally:
            doctor.kill()
            doctor.wait()


def test_a_directory_without_a_relay(tmp_path: Path) -> None:
    """That is all that is said of it, and nothing about modes and owners; one that is not there is an error."""
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "data" / "passwd").touch(mode=0o644)
    run = Relay(tmp_path / "data").run("doctor", "--idle", "0")
    assert run.returncode == 3
    assert "no relay.db" in run.stdout
    assert "--data" in run.stdout
    assert "chmod" not in run.stdout
    assert "chown" not in run.stdout
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["passwd"]
    run = Relay(tmp_path / "none").run("doctor")
    assert (run.returncode, "--data" in run.stderr) == (1, True)


def test_a_database_that_is_none(tmp_path: Path) -> None:
    """It fails with what to do, and nobody is told to start a relay on it."""
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "relay.db").write_text("junk")
    relay = Relay(tmp_path / "data")
    run = relay.run("doctor", "--idle", "0")
    assert run.returncode == 3
    assert "\ndatabase: relay check" in run.stdout
    assert "relay serve" not in run.stdout
