"""A relay's command line on a directory that no relay serves, and relays as processes."""

from tests.acceptance.conftest import new_relay as new_relay
from tests.cli import conftest as commands

cli = commands.relay
