"""The packages of extras, for pip: `python -m benchmarks.peers peers train-peers`."""

import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def requirements(extra: str) -> list[str]:
    """What pyproject.toml lists under an extra."""
    document = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    found: list[str] = document["project"]["optional-dependencies"][extra]
    return found


if __name__ == "__main__":
    print(*(name for extra in sys.argv[1:] for name in requirements(extra)), sep="\n")
