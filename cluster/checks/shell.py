"""Shell: which commands, options and variables a script names, and whether they exist. A parser reads it; nothing is run."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import tree_sitter
import tree_sitter_bash

from cluster.checks.lcl_options import check_command, check_options
from cluster.checks.names import SBATCH, SLURM_VARIABLES, VARIABLES, check_variable, nearest

# Tools with the options that we use (POSIX, coreutils, OpenSSL, Debian's apt-get).
PLAIN = {
    "set": {"-euo"}, "export": set(), "cd": set(), "pwd": set(), "umask": set(), "mkdir": {"-p"}, "dirname": set(), "chmod": set(), "cat": set(), "rm": {"-f", "-rf"},
    "grep": {"-q"}, "head": {"-n"}, "printf": set(), "wait": set(), "kill": set(), "exit": set(), "true": set(), "source": set(), "useradd": {"--create-home", "--uid"},
    "echo": set(),
}  # fmt: skip
SUBCOMMANDS = {
    "openssl": {"rand": {"-hex"}}, "scontrol": {"show": set(), "requeue": set()}, "apt-get": {"update": set(), "install": {"--yes", "--no-install-recommends"}},
}  # fmt: skip
SRUN = {"--kill-on-bad-exit", "--cpus-per-task", "--nodes", "--ntasks"}
DEEPSPEED = {"--hostfile", "--launcher", "--master_addr", "--master_port", "--module"}
PIP = {"--no-cache-dir", "-c", "-e", "--index-url"}
SIGNALS = {"EXIT", "TERM", "USR1"}
OPERATORS = {"-s", "-n", "!"}
RAY_STARTS = (["ray", "start"], ["ray", "symmetric-run"])


@cache
def _parser() -> tree_sitter.Parser:
    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_bash.language()))


def parse(text: str) -> tree_sitter.Node:
    return _parser().parse(text.encode()).root_node


def nodes(root: tree_sitter.Node, *kinds: str) -> Iterator[tree_sitter.Node]:
    """The nodes of these kinds below `root`, in their order."""
    if root.type in kinds:
        yield root
    for child in root.children:
        yield from nodes(child, *kinds)


def word_of(node: tree_sitter.Node) -> str:
    """The node's text, without quotes where it is one quoted string."""
    text = node.text.decode()
    if node.type == "raw_string":
        return text[1:-1]
    return text[1:-1] if node.type == "string" else text


def check_shell(text: str, *, environment: frozenset[str] = frozenset()) -> list[str]:
    """Problems of a script. `environment` names variables that it may read because of where it runs."""
    root = parse(text)
    problems = [] if not root.has_error else ["the shell cannot parse it"]
    problems += _check_sbatch(text)
    for command in nodes(root, "command"):
        problems += check_words([word_of(child) for child in command.children if child.type not in ("variable_assignment", "file_redirect", "herestring_redirect")])
    problems += [f"test {word_of(node)}: unknown" for node in nodes(root, "test_operator") if word_of(node) not in OPERATORS]
    return problems + _check_variables(root, environment) + _check_token(root)


def _check_sbatch(text: str) -> list[str]:
    problems = []
    for line in text.splitlines():
        head, _, rest = line.partition(" ")
        if nearest(head, ["#SBATCH"]):
            problems.append(f"{head}: did you mean #SBATCH?")
        elif head == "#SBATCH":
            name, _, value = rest.removeprefix("--").partition("=")
            if not rest.startswith("--") or name not in SBATCH or not re.fullmatch(SBATCH[name], value):
                problems.append(f"{line}: sbatch has no such option, or it takes another value")
    return problems


def _check_variables(root: tree_sitter.Node, environment: frozenset[str]) -> list[str]:
    assigned, exported, read = set(), set(), set()
    for node in nodes(root, "variable_name"):
        name, parent = node.text.decode(), node.parent
        if parent.type == "variable_assignment" or parent.type in ("declaration_command", "for_statement"):
            assigned.add(name)
            if parent.type == "declaration_command" or (parent.parent is not None and parent.parent.type == "declaration_command"):
                exported.add(name)
        elif not name.isdigit():  # the script's own arguments
            read.add(name)
    for code in nodes(root, "raw_string"):
        if code.parent.children[0].text == b"trap":  # it runs later, in this shell
            read |= set(re.findall(r"\$(\w+)", code.text.decode()))
            assigned |= set(re.findall(r"(\w+)=", code.text.decode()))
    problems = [f"${name} is read, but nobody sets it" for name in sorted(read - assigned - VARIABLES - SLURM_VARIABLES - environment)]
    for name in sorted(assigned - VARIABLES):
        problems += check_variable(name)
        if name not in read and name not in exported:
            problems.append(f"{name} is set and never read")
        if name in exported and nearest(name, read - assigned):
            problems.append(f"{name} is exported, and {nearest(name, read - assigned)} is read")
    return problems


def _check_token(root: tree_sitter.Node) -> list[str]:
    """A Ray that asks for no token runs the jobs of everyone who reaches it."""
    for command in nodes(root, "command"):
        words = [word_of(child) for child in command.children]
        if any(start == words[place : place + 2] for start in RAY_STARTS for place in range(len(words))) and "RAY_AUTH_MODE=token" not in root.text.decode():
            return ["it starts Ray without RAY_AUTH_MODE=token: everyone who reaches it could run jobs"]
    return []


def check_words(words: list[str]) -> list[str]:
    """Problems of one simple command, and of the command that it starts."""
    name, rest = words[0], words[1:]
    if name in PLAIN:
        return _unknown(name, rest, PLAIN[name])
    if name in SUBCOMMANDS:
        known = SUBCOMMANDS[name]
        return _unknown(f"{name} {rest[0]}", rest[1:], known[rest[0]]) + _check_hostnames(words) if rest and rest[0] in known else [f"{name} {' '.join(rest[:1])}: there is no such command"]
    if name in CHECKS:
        return CHECKS[name](rest)
    near = nearest(name, {*PLAIN, *SUBCOMMANDS, *CHECKS})
    return [f"command {name}: did you mean {near}?"] if near else []


def _check_hostnames(words: list[str]) -> list[str]:
    return [f"scontrol show {words[2]}: unknown"] if words[:2] == ["scontrol", "show"] and words[2] != "hostnames" else []


def _unknown(name: str, words: list[str], known: set[str]) -> list[str]:
    given = [word.partition("=")[0] for word in words if word.startswith("-") and word != "-"]
    return [f"{name}: no option that we use is called {word}" for word in given if word not in known]


def _srun(words: list[str]) -> list[str]:
    first = next((place for place, word in enumerate(words) if not word.startswith("-")), len(words))
    return _unknown("srun", words[:first], SRUN) + (check_words(words[first:]) if words[first:] else ["srun starts nothing"])


def _bash(words: list[str]) -> list[str]:
    if words[:1] == ["-c"]:
        return check_shell(words[1])
    return [] if not words[1:] else check_words(words[1:])


def _module(name: str, words: list[str], known: set[str]) -> list[str]:
    """A launcher that starts one of our modules."""
    if "--module" not in words:
        return [f"{name}: --module is missing"]
    place = words.index("--module")
    return _unknown(name, words[:place], known) + _our_module(words[place + 1 :])


def _our_module(words: list[str]) -> list[str]:
    try:
        return check_options(words[0], words[1:])
    except (ModuleNotFoundError, StopIteration):
        return [f"{words[0]} is no entry point of ours"]


@cache
def _torchrun_options() -> frozenset[str]:
    from torch.distributed.run import get_args_parser

    return frozenset(get_args_parser()._option_string_actions)  # argparse has no public list; its own parsing would take a prefix for an option


def _python(words: list[str]) -> list[str]:
    if words[:3] == ["-m", "pip", "install"]:
        return _unknown("pip install", words[3:], PIP)
    return _our_module(words[1:]) if words[:1] == ["-m"] else [f"python {' '.join(words[:1])}: give -m MODULE"]


@cache
def ray_command(*names: str) -> Any:
    """Ray's own description of one of its commands."""
    from ray.scripts.scripts import cli

    found = cli
    for name in names:
        found = found.commands.get(name) if hasattr(found, "commands") else None
    return found


def ray_options(*names: str) -> set[str]:
    return {option for parameter in ray_command(*names).params for option in parameter.opts if option.startswith("-")}


def _ray(words: list[str]) -> list[str]:
    names = words[:2] if words[:1] == ["job"] else words[:1]
    if ray_command(*names) is None:
        return [f"ray {' '.join(names)}: there is no such command"]
    known = ray_options(*names) | (ray_options("start") if names == ["symmetric-run"] else set())
    rest = words[len(names) :]
    if "--" not in rest:
        return _unknown(f"ray {' '.join(names)}", rest, known) + _check_dashboard(words)
    place = rest.index("--")
    return _unknown(f"ray {' '.join(names)}", rest[:place], known) + check_words(rest[place + 1 :])


def _check_dashboard(words: list[str]) -> list[str]:
    if words[:1] == ["start"] and "--head" in words:
        host = words[words.index("--dashboard-host") + 1] if "--dashboard-host" in words else None
        if host in (None, "0.0.0.0", "::"):
            return ["ray start --head: give --dashboard-host, loopback or an address of a private network"]
    return []


def _trap(words: list[str]) -> list[str]:
    code = [f"trap {word}: unknown signal" for word in words[1:] if word not in SIGNALS]
    inner = parse(words[0])
    for command in nodes(inner, "command"):
        code += check_words([word_of(child) for child in command.children])
    return code


def _ssh(words: list[str]) -> list[str]:
    return check_shell(words[1]) if len(words) > 1 else ["ssh: no command"]


CHECKS = {
    "exec": lambda words: check_words(words) if words and words[0] != '$@' else [], "srun": _srun, "bash": _bash, "/bin/bash": _bash, "ray": _ray, "lcl": check_command,
    "python": _python, "deepspeed": lambda words: _module("deepspeed", words, DEEPSPEED), "trap": _trap, "ssh": _ssh,
    "torchrun": lambda words: _module("torchrun", words, set(_torchrun_options())),
}  # fmt: skip
