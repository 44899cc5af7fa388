"""What benchmarks share: servers and generators to measure with, and comparisons of what they measured.

Importing it makes the modules of examples/ and of tests/support/ importable.
"""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]

sys.path.insert(0, str(_ROOT / "examples"))
sys.path.extend(map(str, sorted((_ROOT / "tests" / "support").iterdir())))
