"""How this program is called from a shell."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def program() -> str:
    """`relay` where the shell finds it under that name, else what does the same."""
    path = Path(sys.argv[0])
    found = shutil.which("relay")
    if path.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m relay_tornado"
    if found is not None and path.exists() and path.samefile(found):
        return "relay"
    return shlex.quote(str(path.absolute()))
