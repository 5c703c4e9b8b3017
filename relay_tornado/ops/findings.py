"""The report of a check of a relay's file: its findings, and what to do about each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["damage", "warning"]

MOST_TOLD = 100
"""The most findings of one kind in a report."""

RESTORE = (
    "stop the relay, keep the directory for whoever wants to look into it, and `relay restore` the newest backup into "
    "a new one; `relay export` still gets what can be read"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, and what to do about it. `bucket` is a name or an id, "" for the whole file."""

    level: Level
    kind: str
    message: str
    advice: str
    bucket: str = ""


@dataclass(slots=True)
class Report:
    """How much was checked, and what was found."""

    path: Path
    schema: int = 0
    buckets: int = 0
    consumers: int = 0
    events: int = 0
    bytes: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    @property
    def damage(self) -> list[Finding]:
        """The findings that are not warnings."""
        return [finding for finding in self.findings if finding.level == "damage"]

    @property
    def damaged(self) -> bool:
        return bool(self.damage)

    @property
    def cut_off(self) -> set[str]:
        """The kinds of which there may be more findings than are told."""
        counts = Counter(finding.kind for finding in self.findings)
        return {kind for kind, count in counts.items() if count >= MOST_TOLD}

    def add(self, level: Level, kind: str, message: str, advice: str = RESTORE, bucket: str = "") -> None:
        """Adds a finding; after `MOST_TOLD` of one kind, further ones are ignored."""
        if sum(finding.kind == kind for finding in self.findings) < MOST_TOLD:
            self.findings.append(Finding(level, kind, message, advice, bucket))
