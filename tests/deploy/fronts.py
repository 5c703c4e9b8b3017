"""nginx and Caddy, each with the configuration that deploy/ ships, in front of any port of this machine.

    with nginx(upstream_port, directory) as front: ... front.url, front.ca

What has to differ in a test (ports, files, times) is replaced in the shipped text, where it has to be found.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
import websockets
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from tests.needs import needs
from tests.ports import hold_port, port_of

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
NAME = "hooks.example.com"


@dataclass(frozen=True)
class Front:
    """A proxy that runs. `url` is where it is reached (as 127.0.0.1; its certificate, if it has one, is for NAME and
    signed by `ca`), `plain` its port without TLS, `directory` where its logs are."""

    url: str
    port: int
    plain: int
    directory: Path
    ca: trustme.CA | None


def replaced(path: Path, replacements: Mapping[str, str]) -> str:
    """The file's text with each key replaced; a key that is not there is an error."""
    text = path.read_text()
    for old, new in replacements.items():
        assert old in text, f"{path.name} has no {old!r} any more"
        text = text.replace(old, new)
    return text


@contextmanager
def nginx(upstream: int, directory: Path, changes: Mapping[str, str] | None = None) -> Iterator[Front]:
    """nginx with deploy/nginx/relay.conf, as whoever runs the test, on ports that the system gave."""
    needs("nginx", "apt-get install nginx")
    ca = trustme.CA()
    leaf = ca.issue_cert(NAME)
    leaf.private_key_and_cert_chain_pem.write_to_path(directory / "pair.pem")
    with ExitStack() as stack:
        plain, secure = (stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128)) for _ in range(2))
        ports = [listening.getsockname()[1] for listening in (plain, secure)]
        write_nginx(directory, upstream, ports, changes or {})
        command = [
            "nginx",
            "-p",
            str(directory),
            "-c",
            str(directory / "nginx.conf"),
            "-e",
            str(directory / "error.log"),
        ]
        subprocess.run([*command, "-t"], check=True, capture_output=True, timeout=60)
        # As at an upgrade of nginx's own program: it takes over sockets that listen already.
        descriptors = [plain.fileno(), secure.fileno()]
        environ = {**os.environ, "NGINX": "".join(f"{descriptor};" for descriptor in descriptors)}
        process = subprocess.Popen(command, env=environ, pass_fds=descriptors)
        stack.callback(_end, process)
        _wait(ports[0], process, directory / "error.log")
        yield Front(f"https://127.0.0.1:{ports[1]}", ports[1], ports[0], directory, ca)


def write_nginx(directory: Path, upstream: int, ports: list[int], changes: Mapping[str, str]) -> None:
    """nginx.conf for a test, around the shipped file."""
    shipped = replaced(
        DEPLOY / "nginx" / "relay.conf",
        {
            "listen 80;": f"listen 127.0.0.1:{ports[0]};",
            "listen 443 ssl;": f"listen 127.0.0.1:{ports[1]} ssl;",
            "listen [::]:80;": "",
            "listen [::]:443 ssl;": "",
            "server 127.0.0.1:8080;": f"server 127.0.0.1:{upstream};",
            "/etc/letsencrypt/live/hooks.example.com/fullchain.pem": f'"{directory}/pair.pem"',
            "/etc/letsencrypt/live/hooks.example.com/privkey.pem": f'"{directory}/pair.pem"',
            "/var/log/nginx/relay.log": f'"{directory}/relay.log"',
            "/var/log/nginx/relay-error.log": f'"{directory}/relay-error.log"',
            **changes,
        },
    )
    temporary = "".join(
        f'{kind}_temp_path "{directory}/{kind}";\n' for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(
        f'daemon off;\nmaster_process off;\npid "{directory}/nginx.pid";\nerror_log "{directory}/error.log";\n'
        f'events {{ worker_connections 512; }}\nhttp {{\naccess_log "{directory}/access.log";\n'
        f"{temporary}{shipped}\n}}\n"
    )


@contextmanager
def caddy(upstream: int, directory: Path) -> Iterator[Front]:
    """Caddy with deploy/caddy/Caddyfile, without TLS (it would ask an authority for a certificate)."""
    needs("caddy", "apt-get install caddy")
    # On all addresses it would not get a port that somebody has on another one.
    own = "{\n\tadmin off\n\tdefault_bind 127.0.0.1\n}\n"
    (directory / "Caddyfile").write_text(own + replaced(DEPLOY / "caddy" / "Caddyfile", {}))
    held = hold_port()
    port = port_of(held)
    environ = {
        **os.environ,
        "HOME": str(directory),
        "XDG_CONFIG_HOME": str(directory),
        "XDG_DATA_HOME": str(directory),
        "RELAY_DOMAIN": f"http://127.0.0.1:{port}",
        "RELAY_UPSTREAM": f"127.0.0.1:{upstream}",
    }
    with held, (directory / "caddy.log").open("wb") as log:
        process = subprocess.Popen(
            ["caddy", "run", "--adapter", "caddyfile", "--config", str(directory / "Caddyfile")],
            env=environ,
            stdout=log,
            stderr=log,
        )
        try:
            _wait(port, process, directory / "caddy.log")
            yield Front(f"http://127.0.0.1:{port}", port, port, directory, None)
        finally:
            _end(process)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it answers a connection. `log` has its output."""
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, f"the proxy has ended: {log.read_text()[-2_000:]}"
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as probe:
                probe.settimeout(5)
                probe.sendall(b"GET / HTTP/1.0\r\n\r\n")
                if probe.recv(1):
                    return
        except OSError:
            pass
        assert time.monotonic() < deadline, "the proxy does not answer"
        time.sleep(0.02)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(60)


FRONTS: Mapping[str, Callable[..., AbstractContextManager[Front]]] = {"nginx": nginx, "caddy": caddy}


def context(front: Front) -> ssl.SSLContext | None:
    if front.ca is None:
        return None
    made = ssl.create_default_context()
    made.check_hostname = False
    front.ca.configure_trust(made)
    return made


class Behind:
    """What a test does through a front."""

    def __init__(self, front: Front) -> None:
        self.front = front

    async def fetch(self, path: str, **options: Any) -> HTTPResponse:
        headers = {"Host": NAME if self.front.ca else f"127.0.0.1:{self.front.port}", **options.pop("headers", {})}
        client = AsyncHTTPClient(force_instance=True, max_body_size=1 << 20)
        try:
            return await client.fetch(
                self.front.url + path,
                headers=headers,
                raise_error=False,
                follow_redirects=False,
                ssl_options=context(self.front),
                request_timeout=60,
                decompress_response=False,
                **options,
            )
        finally:
            client.close()

    async def show(self, path: str, **options: Any) -> dict[str, Any]:
        response = await self.fetch(path, **options)
        assert response.code == 200, response.body
        shown: dict[str, Any] = json.loads(response.body)
        return shown

    def socket(self, path: str) -> Any:
        url = f"ws{self.front.url.removeprefix('http')}{path}"
        return websockets.connect(
            url, ssl=context(self.front), open_timeout=60, close_timeout=5, ping_interval=None, proxy=None
        )


@asynccontextmanager
async def behind(kind: str, upstream: int, directory: Path, **options: Any) -> AsyncIterator[Behind]:
    """A front of this kind; it is started and ended on another thread, while the loop serves what is behind it."""
    front = FRONTS[kind](upstream, directory, **options)
    yielded = await asyncio.to_thread(front.__enter__)
    try:
        yield Behind(yielded)
    finally:
        await asyncio.to_thread(front.__exit__, None, None, None)
