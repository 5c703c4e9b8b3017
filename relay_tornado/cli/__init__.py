"""The `relay` command."""

from relay_tornado.cli.entry import main as main
