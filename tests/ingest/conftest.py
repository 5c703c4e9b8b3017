"""Both ways in which a webhook comes to ingest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ingest.world import Bench


@pytest.fixture(scope="module", params=["in pieces", "whole"])
def ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything holds for a webhook that is here whole as it does for one that comes in pieces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bench, "whole", request.param == "whole")
        yield
