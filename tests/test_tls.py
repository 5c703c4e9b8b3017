"""Certificates: what is wrong with them in words, and their renewal under open connections. Real files, real TLS."""

from __future__ import annotations

import asyncio
import datetime
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs
from tornado.iostream import IOStream, StreamClosedError
from tornado.tcpserver import TCPServer

from relay_tornado.errors import StartupError
from relay_tornado.tls import Certificate
from tests.waiting import until

CA = trustme.CA()
NAME = "hooks.example.com"


def issue(name: str = "first", **options: Any) -> trustme.LeafCert:
    """A certificate for NAME; `name` tells it from others."""
    return CA.issue_cert(NAME, common_name=name, **options)


class Files:
    """The two files that the settings name."""

    def __init__(self, directory: Path) -> None:
        self.certificate = directory / "cert.pem"
        self.key = directory / "key.pem"

    def put_certificate(self, leaf: trustme.LeafCert) -> None:
        _replace(self.certificate, b"".join(blob.bytes() for blob in leaf.cert_chain_pems))

    def put_key(self, leaf: trustme.LeafCert) -> None:
        _replace(self.key, leaf.private_key_pem.bytes())

    def put(self, leaf: trustme.LeafCert) -> None:
        self.put_certificate(leaf)
        self.put_key(leaf)

    def load(self) -> Certificate:
        return Certificate(self.certificate, self.key)


def _replace(path: Path, content: bytes) -> None:
    path.with_suffix(".new").write_bytes(content)
    path.with_suffix(".new").replace(path)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    made = Files(tmp_path)
    made.put(issue())
    return made


class Echo(TCPServer):
    """Sends back what comes, over TLS with the certificate's context of the moment."""

    def __init__(self, certificate: Certificate) -> None:
        self._certificate = certificate
        super().__init__()

    @property
    def ssl_options(self) -> ssl.SSLContext:
        return self._certificate.context

    @ssl_options.setter
    def ssl_options(self, value: object) -> None:
        """Tornado sets it once, where this wants it anew for each connection."""

    async def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        with suppress(StreamClosedError):
            while True:
                await stream.write(await stream.read_bytes(100, partial=True))


@asynccontextmanager
async def serving(certificate: Certificate) -> AsyncIterator[int]:
    """The port of an Echo."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=300)
    listening.setblocking(False)
    server = Echo(certificate)
    server.add_socket(listening)
    try:
        yield listening.getsockname()[1]
    finally:
        server.stop()


class Client:
    """A TLS connection to an Echo."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: int, context: ssl.SSLContext) -> Client:
        connecting = asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=NAME)
        return cls(*await asyncio.wait_for(connecting, 60))

    @property
    def session(self) -> ssl.SSLObject:
        found: ssl.SSLObject = self._writer.get_extra_info("ssl_object")
        return found

    @property
    def server(self) -> str:
        """The common name of the server's certificate."""
        subject = dict(part for (part,) in self.session.getpeercert()["subject"])  # type: ignore[index, misc]
        return str(subject["commonName"])

    async def echo(self, text: bytes) -> None:
        self._writer.write(text)
        assert await asyncio.wait_for(self._reader.readexactly(len(text)), 60) == text

    async def close(self) -> None:
        self._writer.close()
        with suppress(ssl.SSLError, ConnectionError):
            await self._writer.wait_closed()


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


@asynccontextmanager
async def watching(certificate: Certificate) -> AsyncIterator[None]:
    task = asyncio.create_task(certificate.watch(0.01))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.gen_test
async def test_a_client_of_today_is_served(files: Files) -> None:
    """TLS 1.3 and 1.2 with forward secrecy, authenticated encryption, HTTP/1.1 agreed on, the name verified; nothing
    older."""
    files.put(issue(key_type=trustme.KeyType.RSA))  # with which the old ways would do too
    certificate = files.load()
    assert certificate.context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert certificate.context.options & ssl.OP_NO_RENEGOTIATION
    async with serving(certificate) as port:
        for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
            context = trusting()
            context.maximum_version = version
            context.set_alpn_protocols(["h2", "http/1.1"])
            client = await Client.connect(port, context)
            await client.echo(b"hello")
            assert client.session.selected_alpn_protocol() == "http/1.1"
            assert client.session.cipher()[1] == ("TLSv1.3" if version == ssl.TLSVersion.TLSv1_3 else "TLSv1.2")  # type: ignore[index]
            await client.close()
        for ciphers in ("AES256-SHA:AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA256:ECDHE-RSA-AES256-SHA384"):
            old = trusting()
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            old.set_ciphers(ciphers)
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await Client.connect(port, old)


@pytest.mark.gen_test
async def test_renewal_drops_no_connection(files: Files) -> None:
    """200 open connections go on through a renewal, and whoever connects afterwards gets the new certificate."""
    certificate = files.load()
    context = trusting()
    async with serving(certificate) as port, watching(certificate):
        clients = [await Client.connect(port, context) for _ in range(200)]
        before = certificate.context
        files.put(issue("second", key_type=trustme.KeyType.RSA))
        await until(lambda: certificate.context is not before and not certificate.problem)
        await asyncio.gather(*(client.echo(f"still here {i}".encode()) for i, client in enumerate(clients)))
        late = await Client.connect(port, context)
        await late.echo(b"hello")
        assert {client.server for client in clients} == {"first"}
        assert late.server == "second"
        for client in [*clients, late]:
            await client.close()


@pytest.mark.gen_test
async def test_no_client_gets_the_old_certificate_after_a_change_of_key_type(files: Files) -> None:
    """After RSA gave way to ECDSA, a client that prefers RSA is not served from the old chain."""
    files.put(issue("old", key_type=trustme.KeyType.RSA))
    certificate = files.load()
    async with serving(certificate) as port:
        rsa_only = trusting()
        rsa_only.maximum_version = ssl.TLSVersion.TLSv1_2
        rsa_only.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
        client = await Client.connect(port, rsa_only)
        assert client.server == "old"
        await client.close()
        files.put(issue("new"))
        certificate.reload()
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await Client.connect(port, rsa_only)
        client = await Client.connect(port, trusting())
        assert client.server == "new"
        await client.close()


@pytest.mark.gen_test
async def test_a_half_written_pair_is_refused_and_said_once(files: Files) -> None:
    """Between the two writes the earlier pair serves on: one line says so, and one that the whole pair is taken."""
    certificate = files.load()
    before, expires = certificate.context, certificate.expires
    second = issue("second", not_after=datetime.datetime(2040, 1, 1, tzinfo=datetime.UTC))
    with capture_logs() as lines:
        async with watching(certificate):
            files.put_certificate(second)
            await until(lambda: certificate.problem != "")
            for _ in range(20):
                await asyncio.sleep(0.01)
            assert certificate.context is before
            assert certificate.expires == expires
            assert "does not belong to" in certificate.problem
            files.put_key(second)
            await until(lambda: certificate.problem == "")
            for _ in range(20):
                await asyncio.sleep(0.01)
    assert certificate.context is not before
    assert certificate.expires == datetime.datetime(2040, 1, 1, tzinfo=datetime.UTC).timestamp()
    assert [line["event"] for line in lines] == ["certificate_not_loaded", "certificate_loaded"]


@pytest.mark.gen_test
async def test_a_folder_that_is_none_for_a_while(tmp_path: Path) -> None:
    """The files are looked for until they are back."""
    live, aside = tmp_path / "live", tmp_path / "aside"
    live.mkdir()
    Files(live).put(issue("first"))
    certificate = Files(live).load()
    before = certificate.context
    async with watching(certificate):
        live.rename(aside)
        live.write_bytes(b"")
        await until(lambda: certificate.problem)
        live.unlink()
        aside.rename(live)
        await until(lambda: certificate.problem == "")
    assert certificate.context is not before


def test_a_file_that_is_gone_changes_nothing(files: Files) -> None:
    """The earlier certificate stays until the file is back."""
    certificate = files.load()
    before = certificate.context
    files.key.unlink()
    certificate.reload()
    assert certificate.context is before
    assert "there is no file" in certificate.problem
    files.put(issue("second"))
    certificate.reload()
    assert certificate.context is not before
    assert certificate.problem == ""


@pytest.mark.gen_test
async def test_a_link_that_is_turned_is_a_change(files: Files, tmp_path: Path) -> None:
    """As certbot and Kubernetes renew: the name stays, and leads to other files."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        Files(tmp_path / name).put(issue(name))
    live = tmp_path / "live"
    live.symlink_to("one")
    certificate = Files(live).load()
    before = certificate.context
    async with watching(certificate):
        (tmp_path / "turned").symlink_to("two")
        (tmp_path / "turned").replace(live)
        await until(lambda: certificate.context is not before)
    assert certificate.problem == ""


@pytest.mark.gen_test
async def test_other_files_of_the_same_time_and_size_are_a_change(files: Files) -> None:
    """As where what makes them sets all times alike."""

    def put(leaf: trustme.LeafCert) -> None:
        for path, content in (
            (files.certificate, b"".join(blob.bytes() for blob in leaf.cert_chain_pems)),
            (files.key, leaf.private_key_pem.bytes()),
        ):
            made = path.with_suffix(".new")
            made.write_bytes(content.ljust(8192, b"\n"))
            os.utime(made, (1_800_000_000, 1_800_000_000))
            made.replace(path)

    put(issue("first"))
    certificate = files.load()
    before = certificate.context
    put(issue("second"))
    async with watching(certificate):
        await until(lambda: certificate.context is not before)
    assert certificate.problem == ""


@pytest.mark.gen_test
async def test_files_that_do_not_change_are_not_loaded_again(files: Files) -> None:
    """Watching costs two looks at the file system, no more."""
    certificate = files.load()
    before = certificate.context
    async with watching(certificate):
        for _ in range(20):
            await asyncio.sleep(0.01)
    assert certificate.context is before


@pytest.mark.gen_test
async def test_files_that_can_be_used_again_are(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing is seen to have changed, such as where their mode has."""
    certificate = files.load()

    def fail(_: Certificate) -> None:
        raise StartupError("not yet")

    with monkeypatch.context() as patch:
        patch.setattr(Certificate, "_load", fail)
        certificate.reload()
    assert certificate.problem == "not yet"
    async with watching(certificate):
        await until(lambda: certificate.problem == "")


def _missing(files: Files) -> None:
    files.certificate.unlink()


def _directory(files: Files) -> None:
    files.key.unlink()
    files.key.mkdir()


def _pipe(files: Files) -> None:
    files.key.unlink()
    os.mkfifo(files.key)


def _mismatch(files: Files) -> None:
    files.put_key(issue("other"))


def _swapped(files: Files) -> None:
    certificate, key = files.certificate.read_bytes(), files.key.read_bytes()
    files.certificate.write_bytes(key)
    files.key.write_bytes(certificate)


def _der(files: Files) -> None:
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.DER))


def _no_key(files: Files) -> None:
    files.key.write_bytes(files.certificate.read_bytes())


def _cut_short(files: Files) -> None:
    files.certificate.write_bytes(files.certificate.read_bytes()[:300])


def _empty(files: Files) -> None:
    files.key.write_bytes(b"")


def _encrypted(files: Files) -> None:
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"hush")
    files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_missing, r"there is no file .*cert\.pem, which --tls-cert names"),
        (_directory, r"key\.pem is a directory, a pipe or a device; --tls-key has to name a file"),
        (_pipe, r"key\.pem is a directory, a pipe or a device; --tls-key has to name a file"),
        (_mismatch, r"the key in .*key\.pem does not belong to the first certificate in .*cert\.pem"),
        (_swapped, r"cert\.pem holds no certificate in PEM form"),
        (_der, r"cert\.pem holds no certificate in PEM form"),
        (_no_key, r"--tls-key its key"),
        (_cut_short, r"can't be used \(.*--tls-cert has to name a certificate"),
        (_empty, r"--tls-key its key"),
        (_encrypted, r"key\.pem is encrypted; write it without its password: openssl pkey"),
    ],
)
def test_what_can_not_be_used_is_named(files: Files, spoil: Callable[[Files], None], words: str) -> None:
    """Each mistake has its own words, which name the file and the flag, and never ask on the terminal."""
    spoil(files)
    with pytest.raises(StartupError, match=words):
        files.load()


@contextmanager
def nobody() -> Iterator[None]:
    """Without root's right to read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_may_not_be_read_is_named() -> None:
    """The error says that it is the relay's own user who has to be able to."""
    with TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        files = Files(Path(directory))
        files.put(issue())
        files.certificate.chmod(0o644)
        files.key.chmod(0)
        denied = r"key\.pem, which --tls-key names, can't be read \(Permission denied\)"
        with nobody(), pytest.raises(StartupError, match=denied):
            files.load()


@pytest.mark.parametrize(("days", "said"), [(-3, ["certificate_expired"]), (5, ["certificate_expires_soon"]), (60, [])])
def test_an_old_certificate_is_warned_of_and_serves(files: Files, days: int, said: list[str]) -> None:
    """Expired or about to be: the log says so, and the relay starts all the same; and so where it is loaded again."""
    now = datetime.datetime.now(datetime.UTC)
    files.put(issue(not_before=now - datetime.timedelta(days=90), not_after=now + datetime.timedelta(days=days)))
    with capture_logs() as lines:
        certificate = files.load()
    assert [line["event"] for line in lines] == said
    with capture_logs() as lines:
        certificate.reload()
    assert [line["event"] for line in lines] == ["certificate_loaded", *said]
    assert certificate.expires == pytest.approx((now + datetime.timedelta(days=days)).timestamp(), abs=2)
