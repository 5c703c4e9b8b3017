"""What a regular expression costs at most, and what it is looked for in."""

from typing import Any

HOSTILE: dict[str, Any] = {
    "or": [
        {"match": {"type": "regex", "regex": f"([ab]{{0,200}}a){{3}}{end}", "parameter": {"source": "body"}}}
        for end in "cdefghij"
    ]
}
"""Rules that look at a body for as long as they may, and find nothing."""

HOSTILE_BODY = b"ab" * 2000
