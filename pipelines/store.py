"""`python -m pipelines.store`: make the registry ready while the Prefect server starts.

A fresh MLflow database takes 5 to 10 seconds, which `train` would wait for; and an address nobody
answers at is told before any work is done.
"""

import os
import sys
from pathlib import Path

from imagemill.errors import UserError
from imagemill.params import read_params
from imagemill.tracking import prepare_store
from imagemill.tracking.address import sqlite_file
from pipelines import environment
from pipelines.terminal import complain


def is_needed(root: Path) -> bool:
    """Whether there is something to prepare: all but a database file that is there."""
    file = sqlite_file(root, read_params(root).register_.tracking_uri)
    return file is None or not file.exists()


def main() -> int:
    """Prepare the store of the project in the current folder; 2 if it cannot be used."""
    root = Path.cwd()
    os.environ.update(environment.quiet_environment(os.environ, root))
    try:
        prepare_store(root, read_params(root).register_)
    except UserError as error:
        complain(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
