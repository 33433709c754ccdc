"""Where things lie in a checkout."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FIXTURES = REPOSITORY / "tests" / "fixtures"
RUNS_OF_0_1_0 = FIXTURES / "runs-of-0.1.0"
