"""An administration over each kind of engine."""

from tests.admin.worlds import open_memory as open_memory
from tests.admin.worlds import open_world as open_world
from tests.admin.worlds import world as world
