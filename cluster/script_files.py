"""Scripts and Dockerfiles, from the templates beside this file."""

import shlex
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import jinja2

from cluster.settings import Profile


def shell_path(path: str) -> str:
    """The path as a word of shell in which ~ is the home of whoever runs it, wherever that word stands."""
    return f'"$HOME"{shlex.quote(path[1:])}' if path.startswith("~/") else shlex.quote(path)


def words(values: Iterable[str]) -> str:
    """The values as words of one command."""
    return " ".join(map(shlex.quote, values))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"quote": shlex.quote, "words": words, "shell_path": shell_path, "folder": lambda path: str(PurePosixPath(path).parent)}
    return environment


def script(template: str, profile: Profile, **values: Any) -> str:
    """The text of one script."""
    return _environment().get_template(f"{template}.jinja").render(profile=profile, **values)
