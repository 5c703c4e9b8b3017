"""An input's domain and path prefix, as requests are compared with them and as they were given."""

from __future__ import annotations

import pytest

from relay_tornado.model import Input
from relay_tornado.wire.place import as_given, compared, with_spelling


@pytest.mark.parametrize(
    ("name", "text", "form"),
    [
        ("custom_domain", "Hooks.Example.org.", "hooks.example.org"),
        ("custom_domain", " hooks.example.org ", "hooks.example.org"),
        ("custom_domain", "", ""),
        ("path_prefix", "/Shop/", "/Shop"),
        ("path_prefix", "/Shop", "/Shop"),
        ("path_prefix", "/", ""),
        ("path_prefix", "//", "/"),
    ],
)
def test_what_requests_are_compared_with(name: str, text: str, form: str) -> None:
    """A domain has no capitals, and neither has a mark at its end; one mark is taken off."""
    assert compared(name, text) == form


def test_only_another_spelling_is_kept() -> None:
    """Beside the unknown fields, which stay as they are; the form itself takes an earlier spelling away."""
    kept = with_spelling({"note": 1}, "path_prefix", "/shop/")
    assert kept == {"note": 1, "path_prefix": "/shop/"}
    assert with_spelling(kept, "path_prefix", "/Shop/") == {"note": 1, "path_prefix": "/Shop/"}
    assert with_spelling(kept, "path_prefix", "/shop") == {"note": 1}


@pytest.mark.parametrize("extra", [{}, {"custom_domain": "Old.example"}, {"custom_domain": 1}])
def test_what_an_older_version_changed_counts(extra: dict[str, object]) -> None:
    """It changes the field, and leaves what was given before as it is."""
    value = Input(
        "i", "in", 0, 0, custom_domain="new.example", path_prefix="/in", extra={**extra, "path_prefix": "/in/"}
    )
    assert as_given(value) == {"custom_domain": "new.example", "path_prefix": "/in/"}
