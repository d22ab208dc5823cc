"""The README and the pages that tell a user what to type keep their word: every command exists."""

import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from imagemill.cli import command_line
from imagemill.recipes import recipe_names

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/running.md", "docs/labels.md")


def _commands(page: str) -> Iterator[str]:
    """Indented lines of a page that begin with a tool's name, without their comments."""
    for line in (REPOSITORY / page).read_text().splitlines():
        if re.match(r"    (make|imagemill|dvc|prefect|source) ", line):
            yield re.split(r"\s+#", line.strip())[0].strip()


ALL = sorted({command for page in PAGES for command in _commands(page)})


def _of(tool: str) -> list[str]:
    return [command for command in ALL if command.split()[0] == tool]


@pytest.mark.parametrize("command", _of("make"))
def test_make_target_exists(command: str) -> None:
    """The Makefile has the target."""
    subprocess.run(
        ["make", "--dry-run", "--always-make", *command.split()[1:]],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )


@pytest.mark.parametrize("command", _of("imagemill"))
def test_verb_and_flags_exist(command: str) -> None:
    """The command line accepts the words as they stand there."""
    command_line().parse_args(command.split()[1:])


@pytest.mark.parametrize("command", _of("dvc"))
def test_dvc_accepts_the_command(command: str) -> None:
    """DVC's own parser accepts the words."""
    from dvc.cli.parser import get_main_parser

    get_main_parser().parse_args(command.split()[1:])


@pytest.mark.parametrize("command", _of("prefect"))
def test_prefect_has_the_command(command: str) -> None:
    """Prefect knows the command and the flags."""
    words = [word for word in command.split() if word != "--no-prompt"]  # a flag of all commands
    named = list(takewhile(lambda word: not word.startswith("-"), words))
    told = subprocess.run(
        [sys.executable, "-m", *named[:3], "--help"], capture_output=True, text=True, check=True
    )
    flags = [word for word in words if word.startswith("--")]
    assert all(flag in told.stdout for flag in flags)


@pytest.mark.parametrize("command", _of("make"))
def test_recipe_exists(command: str) -> None:
    """Every recipe named in a command is in recipes/."""
    named = re.findall(r"RECIPE=(\w+)", command)
    assert set(named) <= set(recipe_names(REPOSITORY))


def test_the_pages_name_the_two_commands_a_user_starts_with() -> None:
    """`make run` and `make test` come first."""
    assert list(_commands("README.md"))[:2] == ["make run", "make test"]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Every relative link is a file of the project."""
    folder = (REPOSITORY / page).parent
    targets = re.findall(r"\]\(([^)#]+)\)", (REPOSITORY / page).read_text())
    missing = [
        target
        for target in targets
        if not target.startswith("http") and not (folder / target).exists()
    ]
    assert missing == []
