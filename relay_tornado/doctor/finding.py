"""A finding of the doctor: what was checked, whether it is well, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: `says` is what was found, `remedy` what to do about it ("" if all is well)."""

    name: str
    level: Level
    says: str
    remedy: str = ""
