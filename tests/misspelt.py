"""Every field of a rendered file, and the file with that field misspelt: its name with the last letter twice."""

import json
import re
import tomllib
from collections.abc import Iterator

import yaml

from cluster.checks.check_files import DOCKER
from cluster.checks.shell import CHECKS, PLAIN, SUBCOMMANDS, nodes, parse, word_of

COMMANDS = {*PLAIN, *SUBCOMMANDS, *CHECKS}
WITH_SUBCOMMANDS = {*SUBCOMMANDS, "ray", "lcl"}
DATA = {"environment", "file_mounts"}  # maps whose keys are a user's own


def misspelt(name: str, text: str) -> Iterator[tuple[str, str]]:
    """Pairs of a field's name, with where it stands, and the whole text with it misspelt."""
    if name.endswith((".sh", ".sbatch")):
        yield from _shell(text)
    elif "Dockerfile" in name:
        if not name.endswith("ignore"):
            yield from _dockerfile(text)
    elif name.endswith(".yaml"):
        yield from _yaml(text)
    elif name.endswith(".json"):
        yield from _keys(text, set(_names(json.loads(text))), r'"{}":')
    elif name.endswith(".toml"):
        yield from _keys(text, set(_names(tomllib.loads(text))), r"^\[?{}(?=[] ]| =)")
    elif name.endswith("hostfile"):
        yield from _keys(text, {"slots"}, r"{}=")
    elif name.endswith("deepspeed_env"):
        yield from _keys(text, set(re.findall(r"^(\w+)=", text, re.MULTILINE)), r"^{}=")
    else:
        raise AssertionError(name)


def _twice(text: str, end: int) -> str:
    """The text with the character before `end` twice."""
    return text[:end] + text[end - 1] + text[end:]


def _keys(text: str, keys: set[str], pattern: str) -> Iterator[tuple[str, str]]:
    for key in sorted(keys):
        for found in re.finditer(pattern.format(re.escape(key)), text, re.MULTILINE):
            yield key, _twice(text, found.start() + found[0].index(key) + len(key))


def _names(value: object) -> Iterator[str]:
    """Keys at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            if key not in DATA:
                yield from _names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _names(inner)


def _shell(text: str) -> Iterator[tuple[str, str]]:
    data = text.encode()
    assert len(data) == len(text), "places are counted in bytes"
    for found in re.finditer(r"^#SBATCH --([a-z-]+)", text, re.MULTILINE):
        yield found[0], _twice(text, found.end())
        yield "#SBATCH", _twice(text, found.start() + len("#SBATCH"))
    root = parse(text)
    for node in nodes(root, "variable_name", "test_operator"):
        yield word_of(node), _twice(text, node.end_byte)
    for command in nodes(root, "command"):
        previous, arguments = "", word_of(command.children[0]) in ("apt-get", "useradd")  # of packages and users, some named like commands
        for child in command.children:
            word = word_of(child)
            if child.type == "command_name" or (word in COMMANDS and not arguments) or word.startswith("-") and word not in ("-", "--") or previous in WITH_SUBCOMMANDS | {"job"} and child.type == "word":
                name = word.partition("=")[0]
                if re.search(r"\w$", name) and not word.startswith('"'):
                    yield name, _twice(text, child.start_byte + len(name))
            if child.type == "raw_string" and (previous in ("-c", "trap") or word_of(command.children[0]) == "ssh"):
                for code, changed in _shell(child.text.decode()[1:-1]):
                    yield code, text[: child.start_byte + 1] + changed + text[child.end_byte - 1 :]
            previous = word


def _yaml(text: str) -> Iterator[tuple[str, str]]:
    """Keys, by the parser's own places; scripts and patches inside of values too."""
    for document in yaml.compose_all(text, Loader=yaml.SafeLoader):
        yield from _yaml_node(document, text)


def _yaml_node(node: yaml.Node, text: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value not in ("NAME",):
                yield key.value, _twice(text, key.end_mark.index - (text[key.end_mark.index - 1] in "'\""))
            if key.value not in DATA:
                yield from _yaml_node(value, text)
            if key.value == "name" and value.value.isupper():  # a variable of a container
                yield value.value, _twice(text, value.end_mark.index)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _yaml_node(value, text)
    elif node.style == "|":
        start, end = node.start_mark.index, node.end_mark.index
        lines = text[start:end].splitlines(keepends=True)
        indent = re.match(" *", lines[1])[0]
        inner = "".join(line.removeprefix(indent) for line in lines[1:])
        parts = _yaml(inner) if inner.startswith("---") else _shell(inner)
        for name, changed in parts:
            block = "".join(indent + line if line.strip() else line for line in changed.splitlines(keepends=True))
            yield name, text[:start] + lines[0] + block + text[end:]


def _dockerfile(text: str) -> Iterator[tuple[str, str]]:
    for found in re.finditer(rf"^({'|'.join(DOCKER)}) ", text, re.MULTILINE):
        yield found[1], _twice(text, found.end() - 1)
    for found in re.finditer(r"^RUN (.*)$", text, re.MULTILINE):
        for name, changed in _shell(found[1]):
            yield name, text[: found.start(1)] + changed + text[found.end() :]
    for found in re.finditer(r"^(?:ARG|ENV) (.*)$", text, re.MULTILINE):
        for item in re.finditer(r"(\w+)=", found[1]):
            yield item[1], _twice(text, found.start(1) + item.end(1))
    for found in re.finditer("--chown", text):
        yield found[0], _twice(text, found.end())
