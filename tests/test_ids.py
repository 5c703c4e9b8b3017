"""Identifiers: their form, their checksum, and that nothing else is taken for one."""

from __future__ import annotations

import hashlib
import re
import string
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_tornado import ids
from relay_tornado.errors import Invalid
from relay_tornado.model import Cursor

EPOCHS = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=12, max_size=12)


@given(EPOCHS, st.integers(0, 10**18), st.none() | st.integers(1, 10**9))
def test_an_id_is_its_own_cursor(epoch: str, seq: int, output: int | None) -> None:
    """What format_id writes, parse_id reads."""
    assert ids.parse_id(ids.format_id(epoch, seq, output)) == Cursor(epoch, seq, output)


@given(st.text() | st.from_regex(r"[a-z0-9]{11,13}-[0-9]{1,20}(-[0-9]{1,6})?", fullmatch=True))
def test_any_text_is_an_id_or_invalid(text: str) -> None:
    """No text makes parse_id raise anything but Invalid, and what it takes is written back the same."""
    try:
        cursor = ids.parse_id(text)
    except Invalid:
        return
    assert ids.format_id(cursor.epoch, cursor.seq, cursor.output) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "42",
        "k3v9x1q7m2ab",
        "k3v9x1q7m2ab-",
        "k3v9x1q7m2ab--1",
        "k3v9x1q7m2ab-01",
        "K3V9X1Q7M2AB-1",
        "k3v9x1q7m2ab-1-0",
        "k3v9x1q7m2ab-1-1-1",
        " k3v9x1q7m2ab-1",
        "k3v9x1q7m2ab-1\n",
        "k3v9x1q7m2ab-\N{ARABIC-INDIC DIGIT FOUR}",
        "k3v9x1q7m2ab-" + "9" * 30,
    ],
)
def test_what_is_no_id(text: str) -> None:
    """Near misses are refused in words that show the form."""
    with pytest.raises(Invalid, match="<epoch>-<seq>"):
        ids.parse_id(text)


def test_epochs_have_their_form_and_differ() -> None:
    """12 characters of [a-z0-9], and no two alike."""
    epochs = {ids.new_epoch() for _ in range(1000)}
    assert len(epochs) == 1000
    assert all(re.fullmatch("[a-z0-9]{12}", epoch) for epoch in epochs)


def test_a_secret_has_its_form_and_its_checksum() -> None:
    """`sk-rly_`, 43 characters, and their CRC32 in 6 more, by which a scanner knows a secret."""
    match = re.fullmatch("sk-rly_([0-9A-Za-z]{43})([0-9A-Za-z]{6})", ids.new_secret())
    assert match is not None
    number = 0
    for digit in match[2]:
        number = number * 62 + (string.digits + string.ascii_uppercase + string.ascii_lowercase).index(digit)
    assert number == zlib.crc32(match[1].encode())


def test_what_is_stored_of_a_secret_is_its_sha256() -> None:
    """The hash is the plain SHA-256 in hex, also of text that no UTF-8 has."""
    assert ids.hash_secret("sk") == hashlib.sha256(b"sk").hexdigest()
    assert len(ids.hash_secret("\ud800")) == 64
