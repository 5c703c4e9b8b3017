"""scripts/: set-up from a fresh clone, without a network: stand-ins for Python record what is asked of them."""

import fcntl
import os
import re
import shutil
import stat
import subprocess
from importlib.metadata import requires
from pathlib import Path

import pytest

from tests.acceptance.relay import wait_for
from tests.needs import needs

ROOT = Path(__file__).parent.parent
TOOLS = ("sh", "dirname", "cat", "cksum", "flock", "rm", "mkdir", "chmod", "cp", "readlink", "id")

PYTHON = """#!/bin/sh
# Stands in for a Python {version}: makes "virtual environments" that hold a copy of itself, and notes each call.
echo "$*" >>"$CALLS"
case "$*" in
    *"-m venv"*)
        for venv; do :; done
        mkdir -p "$venv/bin"
        cp "$0" "$venv/bin/python"
        cp "$RELAY" "$venv/bin/relay" ;;
    *"print("*) echo "{version}" ;;
    *ensurepip*) exit {no_venv} ;;
esac
"""


class Clone:
    """A copy of scripts/ and of what they read, and a PATH with only what is put there."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "clone"
        self.bin = folder / "bin"
        self.calls = folder / "calls"
        self.relay = folder / "relay"
        self.bin.mkdir()
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        for name in ("requirements.lock", "setup.cfg", "pyproject.toml"):
            shutil.copy(ROOT / name, self.root / name)
        for tool in TOOLS:
            if path := shutil.which(tool):
                (self.bin / tool).symlink_to(path)
        self._program(self.relay, '#!/bin/sh\necho "relay $*"\n')

    def python(self, name: str, version: str, no_venv: int = 0) -> None:
        self._program(self.bin / name, PYTHON.format(version=version, no_venv=no_venv))

    def _program(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def environment(self) -> dict[str, str]:
        return {"PATH": str(self.bin), "CALLS": str(self.calls), "RELAY": str(self.relay)}

    def serve(self, *start: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.run(*(start or [self.root / "scripts/serve"]), "--port", "0", **variables)

    def run(self, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        self.calls.write_text("")
        environment = self.environment() | variables
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    def installs(self) -> int:
        return self.calls.read_text().count("--require-hashes")


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_a_fresh_clone_is_set_up_and_the_set_up_speaks_on_stderr_only(clone: Clone) -> None:
    """The first run makes .venv, installs the lock by hash, then the relay, and runs it."""
    clone.python("python3", "3.12")
    run = clone.serve()
    assert (run.returncode, run.stdout) == (0, "relay serve --port 0\n")
    assert "making .venv" in run.stderr
    venv, lock, package = [line for line in clone.calls.read_text().splitlines() if line.startswith("-m ")]
    assert venv.startswith("-m venv")
    assert "--require-hashes -r" in lock
    assert "--no-deps --no-build-isolation -e" in package


@pytest.mark.parametrize(
    ("script", "command"),
    [
        ("create_bucket", "bucket create"),
        ("create_token", "token create"),
        ("list_tokens", "token list"),
        ("revoke_token", "token revoke"),
    ],
)
def test_a_script_is_its_command(clone: Clone, script: str, command: str) -> None:
    """From a fresh clone it sets up .venv, and hands its arguments on as they are."""
    clone.python("python3", "3.12")
    clone.relay.write_text('#!/bin/sh\nprintf "%s|" relay "$@"\n')
    run = clone.run(clone.root / "scripts" / script, "two words", "--json")
    assert (run.returncode, run.stdout) == (0, "|".join(["relay", *command.split(), "two words", "--json", ""]))
    assert clone.installs() == 1


def test_a_second_run_does_nothing(clone: Clone) -> None:
    """Where nothing changed, nothing is made, installed or said."""
    clone.python("python3", "3.12")
    clone.serve()
    run = clone.serve()
    assert (run.stdout, run.stderr) == ("relay serve --port 0\n", "")
    assert "-m" not in clone.calls.read_text()


@pytest.mark.parametrize("name", ["requirements.lock", "setup.cfg"])
def test_a_newer_lock_is_noticed(clone: Clone, name: str) -> None:
    """A change to the lock or to the metadata installs again."""
    clone.python("python3", "3.12")
    clone.serve()
    with (clone.root / name).open("a") as file:
        file.write("# newer\n")
    clone.serve()
    assert clone.installs() == 1
    clone.serve()
    assert clone.installs() == 0


def test_a_failed_set_up_is_tried_again(clone: Clone) -> None:
    """An install that fails leaves no stamp, and the relay is not started."""
    clone.python("python3", "3.12")
    good = (clone.bin / "python3").read_text()
    (clone.bin / "python3").write_text(good + 'case "$*" in *--require-hashes*) exit 1 ;; esac\n')
    run = clone.serve()
    assert (run.returncode, run.stdout) == (1, "")
    (clone.root / ".venv/bin/python").write_text(good)
    assert clone.serve().stdout == "relay serve --port 0\n"


def test_a_moved_clone_gets_a_new_venv(clone: Clone) -> None:
    """A virtual environment holds absolute paths, so one that was made elsewhere is not used."""
    clone.python("python3", "3.12")
    clone.serve()
    clone.root = clone.root.rename(clone.root.parent / "moved")
    assert "making .venv" in clone.serve().stderr


def test_the_venv_of_another_clone_is_left_alone(clone: Clone, tmp_path: Path) -> None:
    """A .venv that is a link to another clone's, as in a work tree, is replaced by a directory."""
    clone.python("python3", "3.12")
    clone.serve()
    venv = clone.root / ".venv"
    venv.rename(tmp_path / "other")
    for name in ("made-in", "stamp"):
        file = tmp_path / "other" / name
        file.write_text(file.read_text().replace(str(clone.root), "/another/clone"))
    venv.symlink_to(tmp_path / "other")
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "other").rglob("*"))
    run = clone.serve()
    assert (run.returncode, clone.installs()) == (0, 1)
    assert f"link to {tmp_path}/other, which stays as it is" in run.stderr
    assert not venv.is_symlink()
    assert (venv / "made-in").read_text() == f"{clone.root}\n"
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "other").rglob("*")) == before


def test_a_way_by_a_symlink_is_no_move(clone: Clone, tmp_path: Path) -> None:
    """Neither to the clone, whose .venv may be in use, nor to the script itself."""
    clone.python("python3", "3.12")
    clone.serve()
    (tmp_path / "link").symlink_to(clone.root)
    (tmp_path / "start").symlink_to(clone.root / "scripts/serve")
    for script in (tmp_path / "link/scripts/serve", tmp_path / "start"):
        run = clone.serve(script)
        assert (run.stdout, run.stderr) == ("relay serve --port 0\n", "")


def test_the_packages_of_another_python_are_not_seen(clone: Clone) -> None:
    """pip would take those for installed that PYTHONPATH has, and the relay would run with them."""
    clone.python("python3", "3.12")
    clone.relay.write_text('#!/bin/sh\necho "${PYTHONPATH-none} ${PYTHONHOME-none}"\n')
    run = clone.serve(PYTHONPATH="/elsewhere", PYTHONHOME="/elsewhere")
    assert run.stdout == "none none\n"


def test_a_second_set_up_says_that_it_waits(clone: Clone) -> None:
    """For the first one, whose work it finds done."""
    needs("flock", "install util-linux")
    clone.python("python3", "3.12")
    with (clone.root / ".venv.lock").open("w") as lock, (clone.root / "said").open("w+") as said:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen([clone.root / "scripts/serve"], env=clone.environment(), stderr=said) as second:
            try:
                wait_for(
                    lambda: "waiting for another set-up" in Path(said.name).read_text(), "the second one to say so"
                )
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)
    assert second.returncode == 0


def test_a_clone_that_can_not_be_written(clone: Clone) -> None:
    """It is said whose matter that is, and nothing is tried."""
    clone.python("python3", "3.12")
    clone.root.chmod(0o555)
    if os.access(clone.root, os.W_OK):
        needs("setpriv", "install util-linux, or run this as an ordinary user")
        bare = str(shutil.which("setpriv"))
        run = clone.serve(bare, "--bounding-set=-dac_override", clone.root / "scripts/serve")
    else:
        run = clone.serve()
    assert (run.returncode, run.stdout, clone.calls.read_text()) == (1, "", "")
    assert "to write in: run this once as its owner" in run.stderr


def test_the_first_python_that_fits_is_taken(clone: Clone) -> None:
    """One that is too new, free-threaded or without venv is passed over."""
    clone.python("python3", "3.15")
    clone.python("python3.14", "3.14 (free-threaded)")
    clone.python("python3.13", "3.13", no_venv=1)
    clone.python("python3.11", "3.11")
    run = clone.serve()
    assert run.returncode == 0
    assert "bin/python3.11" in run.stderr


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_a_venv_of_a_python_that_fits_is_kept(clone: Clone, version: str) -> None:
    """Of each supported version, also where what it is made of has changed; of another one it is made anew."""
    clone.python("python3", version)
    assert "making .venv" in clone.serve().stderr
    with (clone.root / "setup.cfg").open("a") as file:
        file.write("# newer\n")
    run = clone.serve()
    assert "making .venv" not in run.stderr
    assert clone.installs() == 1
    clone.python("../clone/.venv/bin/python", "3.15")
    assert "making .venv" in clone.serve().stderr


def test_no_python_that_fits(clone: Clone) -> None:
    """The message says what was found, what is needed and how to get it."""
    clone.python("python3", "3.9")
    clone.python("python3.14", "3.14 (free-threaded)")
    run = clone.serve()
    assert run.returncode == 1
    assert "Python 3.11 to 3.14 is needed" in run.stderr
    assert "(Found: python3 is 3.9; python3.14 is 3.14 (free-threaded).)" in run.stderr
    assert "apt-get install" in run.stderr


def test_python_without_venv(clone: Clone) -> None:
    """Debian's Python without python3-venv: the message names the package."""
    clone.python("python3", "3.12", no_venv=1)
    clone.python("python3.12", "3.12", no_venv=1)
    run = clone.serve()
    assert run.returncode == 1
    assert "Python 3.12 is here without" in run.stderr
    assert "apt-get install python3-venv" in run.stderr


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-serve.lock", "requirements-bench.lock"])
def test_a_lock_names_no_host(name: str) -> None:
    """A lock pins by version and hash alone: every package has hashes, and none says where it comes from."""
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert "--index-url" not in text
    pins = [block for block in text.replace("\\\n", " ").splitlines() if block and not block.lstrip().startswith("#")]
    assert pins
    assert all("==" in pin and "--hash=sha256:" in pin for pin in pins)
    assert os.access(ROOT / "scripts/lock", os.X_OK)


def test_what_serves_is_what_is_tested() -> None:
    """The lock without the tools of tests has the same versions as the whole one, and all that the relay needs."""
    pins = [
        set(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements-serve.lock", "requirements.lock")
    ]
    assert pins[0] < pins[1]
    needed = {
        re.split(r"[<>=;\[ ]", line)[0].lower() for line in requires("relay-tornado") or () if "extra ==" not in line
    }
    assert needed <= {name for name, _ in pins[0]}
    assert not {"pytest", "mypy", "playwright"} & {name for name, _ in pins[0]}
