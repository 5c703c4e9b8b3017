"""`relay doctor` on a real relay."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.relay import Relay


def test_a_relay_that_runs(tmp_path: Path) -> None:
    """It looks at machine and URL, watches a socket, leaves no token behind, and says 3 where the URL is wrong."""
    with Relay(tmp_path / "data") as relay:
        relay.create_bucket("orders")
        said = {each["name"]: each for each in relay.command("doctor", "--idle", "1")}
        assert said["url"]["level"] == said["socket"]["level"] == said["idle"]["level"] == "ok"
        assert said["running"]["level"] == "ok"
        assert relay.command("token", "list") == []
        run = relay.run("doctor", "--idle", "0", "--public-url", "http://127.0.0.1:9")
        assert run.returncode == 3
        assert "http://127.0.0.1:9/healthz does not answer" in run.stdout
        assert "\nurl: look at" in run.stdout


def test_a_directory_without_a_relay(tmp_path: Path) -> None:
    """The machine is looked at all the same; a directory that is not there is an error."""
    (tmp_path / "data").mkdir(mode=0o700)
    relay = Relay(tmp_path / "data")
    said = {each["name"]: each["level"] for each in relay.command("doctor")}
    assert said["running"] == "warn"
    assert "url" not in said
    run = Relay(tmp_path / "none").run("doctor")
    assert (run.returncode, "--data" in run.stderr) == (1, True)
