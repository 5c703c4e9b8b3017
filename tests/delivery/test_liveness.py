"""relay_tornado/delivery/liveness.py: what counts as life, and what a kernel has acknowledged."""

import socket

from relay_tornado.delivery.liveness import Liveness, acknowledged
from tests.acceptance.relay import wait_for


def test_neither_word_nor_acknowledgement_for_the_time_out_is_stuck() -> None:
    """Counted from the last sign of life, and only while something waits for an answer."""
    liveness = Liveness(40.0, 0.0)
    assert not liveness.stuck(100.0, 0)
    liveness.asked(100.0)
    assert not liveness.stuck(105.0, 0)
    assert liveness.stuck(110.0, 0)


def test_a_frame_is_life() -> None:
    """The time begins anew with it, and so does what waits for an answer."""
    liveness = Liveness(40.0, 0.0)
    liveness.asked(20.0)
    liveness.heard(30.0)
    assert not liveness.stuck(69.0, None)
    liveness.asked(40.0)
    liveness.asked(60.0)
    assert not liveness.stuck(69.9, None)
    assert liveness.stuck(70.0, None)


def test_pings_that_come_often_put_nothing_off() -> None:
    """The first one that waits for an answer counts."""
    liveness = Liveness(40.0, 0.0)
    for second in range(40):
        liveness.asked(second)
        assert not liveness.stuck(second, None)
    assert liveness.stuck(40.0, None)


def test_who_has_answered_is_not_waited_for() -> None:
    """It may be silent until the next ping."""
    liveness = Liveness(40.0, 0.0)
    liveness.asked(20.0)
    liveness.heard(30.0)
    assert not liveness.stuck(65.0, None)
    assert not liveness.stuck(70.0, None)


def test_growth_is_life() -> None:
    """More acknowledged than at the last look; as much as then is none."""
    liveness = Liveness(40.0, 0.0)
    liveness.asked(0.0)
    assert not liveness.stuck(39.0, 10)
    liveness.asked(40.0)
    assert not liveness.stuck(78.0, 10)
    assert not liveness.stuck(79.0, 11)
    liveness.asked(80.0)
    assert not liveness.stuck(118.0, 11)
    assert liveness.stuck(119.0, 11)


def test_a_stuck_client_is_found_in_time() -> None:
    """It is looked at so often that it is found at most an eighth of the time-out late."""
    liveness = Liveness(40.0, 0.0)
    now = 0.0
    liveness.asked(now)
    while not liveness.stuck(now, 0):
        assert liveness.due > now
        now = liveness.due
    assert 40.0 <= now <= 45.0


def test_a_look_that_comes_late_finds_nobody_stuck() -> None:
    """What the client has sent while the loop stood still is not read yet. One late look after another is judged."""
    liveness = Liveness(40.0, 0.0)
    liveness.asked(0.0)
    assert not liveness.stuck(70.0, 0)
    assert liveness.due == 75.0
    liveness.heard(70.1)
    assert not liveness.stuck(75.0, 0)
    liveness.asked(75.0)
    assert not liveness.stuck(120.0, 0)
    assert liveness.stuck(170.0, 0)


def test_what_the_other_side_acknowledged() -> None:
    """It grows with what the other side's kernel takes, and stands still when that takes no more."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        connection, _ = server.accept()
        with connection:
            connection.setblocking(False)
            begin = acknowledged(connection)
            assert begin is not None
            connection.send(b"x" * 1000)
            client.recv(1000)
            wait_for(lambda: acknowledged(connection) == begin + 1000, "the kernel to acknowledge it")
            after = begin + 1000
            sent = 0
            try:
                while True:
                    sent += connection.send(b"x" * 100_000)
            except BlockingIOError:
                pass
            full = acknowledged(connection)
            assert full is not None
            assert after < full < after + sent
            client.recv(1 << 16, socket.MSG_WAITALL)


def test_where_nobody_can_tell() -> None:
    """Another kind of socket, or a closed one, gives None."""
    one, other = socket.socketpair()
    assert acknowledged(one) is None
    one.close()
    other.close()
    assert acknowledged(one) is None
