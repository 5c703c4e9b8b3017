"""relay_tornado/outgoing/transport.py over TLS: certificates, and addresses on which there is none."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from relay_tornado.outgoing.names import Resolver, Socket
from relay_tornado.outgoing.transport import NoMeans, Transport
from tests.descriptors import without_descriptors
from tests.forwarding.target import Target, answer
from tests.outgoing.requests import BOUNDS, context_of, fails, raw, send, transport
from tests.ports import silent


@pytest.mark.gen_test
async def test_tiny_parts_over_tls_before_the_end() -> None:
    """What came before the end of the connection is read, also where others have their turns between."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")
        writer.close()

    async with raw(serve, context_of(True)) as url, transport() as made:
        got = await send(made, url, verify=False)
        assert (len(got.body), got.cut) == (20_000, "")


@pytest.mark.gen_test
async def test_a_server_that_prefers_http_2_is_asked_for_http_1_1() -> None:
    context, spoken = context_of(True), []
    assert context is not None
    context.set_alpn_protocols(["h2", "http/1.1"])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        spoken.append(writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(200))
        writer.close()

    async with raw(serve, context) as url, transport() as made:
        assert (await send(made, url, verify=False)).status == 200
    assert spoken == ["http/1.1"]


@pytest.mark.gen_test
async def test_a_connection_that_is_cut_before_tls() -> None:
    """It is said, and soon."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with raw(cut) as url, transport() as made:
        for _ in range(20):
            failed = await fails(made, url.replace("http", "https"))
            assert (failed.kind, str(failed)) == ("unreachable", "it can't be reached: Connection reset by peer")
        assert not made._live


@pytest.mark.gen_test
async def test_a_port_that_speaks_no_tls() -> None:
    """The reason is that of TLS, not the system's error of the same number."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)  # what is unread when it closes would make a reset of the end
        writer.write(answer(400))
        writer.close()

    async with raw(serve) as url, transport() as made:
        failed = await fails(made, url.replace("http", "https"))
        assert (failed.kind, "SSL" in str(failed)) == ("unreachable", True)


@pytest.mark.gen_test
async def test_the_authorities_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes long: not for each connection."""
    made_of, times = ssl.create_default_context, 0

    def counted() -> ssl.SSLContext:
        nonlocal times
        times += 1
        return made_of()

    monkeypatch.setattr(ssl, "create_default_context", counted)
    async with Target(lambda got: answer(200, b"", "Connection: close"), tls=context_of(True)) as target:
        async with transport() as made:
            for _ in range(2):
                await send(made, target.url, verify=False)
        assert (target.connections, times) == (2, 1)


@pytest.mark.gen_test
async def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate is checked, its name, too, unless the output says not to; what is wrong with it is said."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    wrong = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example").configure_cert(wrong)
    async with Target(tls=context) as target, Target(tls=wrong) as other:
        async with transport() as made:
            failed = await fails(made, target.url)
            assert failed.kind == "unreachable"
            assert "certificate is not good" in str(failed)
            assert (await send(made, target.url, verify=False)).status == 200
            assert (await send(made, target.url, verify=False)).status == 200
            assert (await fails(made, target.url)).kind == "unreachable", "not on the unchecked connection"
            failed = await fails(made, target.url.replace("https", "http"), verify=False)
            assert failed.kind == "broken", "nor in clear text on one with TLS"
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setitem(os.environ, "SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        async with transport() as made:
            assert (await send(made, target.url)).status == 200
            failed = await fails(made, other.url)
            assert "certificate is not good" in str(failed)


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """TLS of a server "both.test", whose authority is the only one that is trusted."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("both.test").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setitem(os.environ, "SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return context


@pytest.mark.gen_test
async def test_a_name_with_a_dot_at_its_end_is_that_of_the_certificate(trusted: ssl.SSLContext) -> None:
    made = Transport(_Both(), BOUNDS)
    async with Target(tls=trusted) as target:
        assert (await send(made, f"https://both.test.:{target.port}")).status == 200
        await made.close()


@pytest.mark.gen_test
async def test_no_descriptor_for_the_first_connection(trusted: ssl.SSLContext) -> None:
    """OpenSSL passes over certificates that it can't open. Later connections trust whom they should all the same."""
    made = Transport(_Both(), BOUNDS)
    async with Target(tls=trusted) as target:
        url = f"https://both.test:{target.port}"
        with without_descriptors():
            assert isinstance(await fails(made, url), NoMeans)
        assert (await send(made, url)).status == 200
        await made.close()


class _Both(Resolver):
    """Every name stands for two addresses."""

    async def resolve(self, host: str, port: int) -> list[Socket]:
        return [(socket.AF_INET, (each, port)) for each in ("127.0.0.2", "127.0.0.1")]


@pytest.mark.gen_test
@pytest.mark.parametrize("first", ["silent", "refuses", "speaks no TLS"])
async def test_an_address_of_several_hides_none_behind_it(first: str) -> None:
    """One on which nothing answers, not even by a refusal, that refuses, or on which something else is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("both.test").configure_cert(context)
    made = Transport(_Both(), BOUNDS)
    async with Target(tls=context) as target:
        with ExitStack() as stack:
            if first == "silent":
                stack.enter_context(silent("127.0.0.2", target.port))
            elif first == "speaks no TLS":
                other = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.2", target.port)
                stack.callback(other.close)
            assert (await send(made, f"https://both.test:{target.port}", verify=False, timeout=60.0)).status == 200
        await made.close()
