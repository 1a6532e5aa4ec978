"""Where the files lie that tests read."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
EXAMPLES = TESTS / "examples"
SHOWN = ROOT / "examples"
"""Those for users."""
SUPPORT = TESTS / "support"
SWEEPS = ROOT / "sweeps"
