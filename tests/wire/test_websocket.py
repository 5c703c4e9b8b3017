"""relay_tornado/wire/websocket.py: frames as RFC 6455 has them, read back by another implementation."""

import pytest
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from relay_tornado.wire import websocket


def read(data: bytes) -> Frame:
    reader = StreamReader()
    reader.feed_data(data)
    parser = Frame.parse(reader.read_exact, mask=False, max_size=1 << 20)
    with pytest.raises(StopIteration) as stop:
        next(parser)
    frame: Frame = stop.value.value
    assert not reader.buffer
    return frame


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, 300_000])
def test_a_text_frame_is_read_back(length: int) -> None:
    """Each form of the length is what another implementation reads, with FIN and without a mask."""
    payload = b"x" * length
    frame = read(websocket.text(payload))
    assert (frame.opcode, frame.fin, bytes(frame.data)) == (Opcode.TEXT, True, payload)


def test_the_ping_is_one() -> None:
    """The constant ping is an empty ping frame."""
    frame = read(websocket.PING)
    assert (frame.opcode, frame.fin, bytes(frame.data)) == (Opcode.PING, True, b"")
