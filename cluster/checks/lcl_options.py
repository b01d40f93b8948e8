"""Options of this project's own commands, asked of their configs."""

import ast
import importlib
import inspect
from functools import cache
from typing import Any

from lcl.core.config import OUR_FLAGS, flags

COMMANDS = importlib.import_module("lcl.cli").COMMANDS  # by name, here and below: these are entry points, which nothing imports to use


@cache
def options_of(module: str) -> tuple[frozenset[str], frozenset[str]]:
    """The options and the presets of an entry point, read from its call of `run_command`."""
    found: Any = importlib.import_module(module)
    call = next(node for node in ast.walk(ast.parse(inspect.getsource(found))) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "run_command")
    presets = next((getattr(found, word.value.id) for word in call.keywords if word.arg == "presets"), {})
    return frozenset(flags(getattr(found, call.args[0].id))) | {f"--{name}" for name in OUR_FLAGS}, frozenset(presets)


def check_command(words: list[str]) -> list[str]:
    """Problems of a command `lcl NAME --option value ...`, without the `lcl`."""
    if words == ["--help"]:
        return []
    for length in (2, 1):
        if (name := " ".join(words[:length])) in COMMANDS:
            return check_options(COMMANDS[name][0], words[length:])
    return [f"lcl {' '.join(words[:2])}: there is no such command"]


def check_options(module: str, words: list[str]) -> list[str]:
    """Problems of the words behind an entry point's name."""
    options, presets = options_of(module)
    given = [word.partition("=")[0] for word in words if word.startswith("-")]
    problems = [f"{module}: no option is called {word}" for word in given if word not in options]
    return problems + [f"{module}: no preset is called {value}" for option, value in zip(words, words[1:], strict=False) if option == "--preset" and value not in presets]
