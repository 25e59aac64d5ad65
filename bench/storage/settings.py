"""What the command line of ``python -m bench.storage`` chose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Settings:
    """See the options' help in ``__main__``."""

    seconds: float = 4.0
    repeat: int = 3
    trials: int = 20
    programs: Path = ROOT / "target" / "release"
    against: Path | None = None
    peers: bool = True
    ceph: bool = False
    case: str = ""
    dark_seconds: float = 300.0
    talk: bool = True
