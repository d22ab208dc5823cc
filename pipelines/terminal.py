"""Lines for whoever sits at the terminal."""

import sys

# Marks a line that already stands in a stage's own flow run: the parent shows it, and does not log
# it again.
LOGGED = "\x1e"


def say(line: str) -> None:
    """One line on standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def complain(sentence: str) -> None:
    """One line on standard error."""
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()
