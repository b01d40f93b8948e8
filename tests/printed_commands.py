"""The commands that a page prints, run as printed: in order, in a folder of their own, with small sizes in the place of the large ones."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from lcl.commands import free_port
from tests.conftest import Run


def blocks_of(page: str, *languages: str) -> list[tuple[str, str]]:
    """The language and the text of each block in these languages, in the order of the page."""
    return re.findall(rf"^```({'|'.join(languages)})\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def commands_of(block: str) -> list[str]:
    """The commands of a bash block, those that go on behind a backslash joined."""
    return [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def run_command(run: Run, command: str, folder: Path, *, within: Sequence[str], instead: Mapping[str, str], options: Mapping[str, str]) -> None:
    """Runs a command as printed, but for three things.

    Paths that begin with a name of `within` are below `folder`. Words that are keys of `instead` are replaced, by none or several. A command that begins with a key of
    `options` is given them too. Raises AssertionError if the command fails.
    """
    added = " ".join(words for prefix, words in options.items() if command.startswith(prefix))
    printed = [word for found in shlex.split(command, comments=True) for word in (instead[found].split() if found in instead else [found])]
    words = [str(folder / word) if re.split(r"[/.]", word)[0] in within else word for word in [*printed, *added.split()]]
    if words[0] == "deepspeed":
        words[1:1] = ["--master_port", str(free_port())]
    result = run(*words)
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
