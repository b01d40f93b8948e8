"""Every file that is rendered, and what is wrong with it: unknown fields, options, variables, files.

    {name: text} --by name--> shell.py | kubernetes.py | settings of DeepSpeed | `ray up` | hostfile | Dockerfile --> problems
"""

import json
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import yaml
from yamllint import linter
from yamllint.config import YamlLintConfig

from cluster.checks.kubernetes import check_kustomization, check_objects
from cluster.checks.names import check_variable
from cluster.checks.shell import check_shell
from cluster.settings import read_profile

YAML_STYLE = YamlLintConfig("{extends: default, rules: {line-length: disable}}")
RAY_PROVIDER = {"type", "head_ip", "worker_ips"}  # of `local`; Ray's schema takes any
DOCKER = {"FROM", "RUN", "WORKDIR", "COPY", "ARG", "ENV", "USER", "CMD"}
CANARY = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|\bhf_[A-Za-z0-9]{20,}|\b[0-9a-f]{64}\b|(?:password|secret|token)\s*[:=]\s*['\"]?(?=\S*\d)[A-Za-z0-9+/_-]{16,}", re.IGNORECASE)


def check_files(everything: Mapping[str, str]) -> list[str]:
    """All problems, each with the name of its file."""
    return [f"{name}: {problem}" for name, text in everything.items() for problem in check_file(name, text, everything)]


def check_file(name: str, text: str, everything: Mapping[str, str]) -> list[str]:
    """Problems of one file among `everything`."""
    problems = ["it holds what looks like a secret"] if CANARY.search(text) else []
    if name.endswith((".yaml", ".yml")):
        problems += [f"line {found.line}: {found.desc}" for found in linter.run(text, YAML_STYLE)]
        if problems:
            return problems
    if fnmatchcase(name, "k8s/*kustomization.yaml"):
        return problems + check_kustomization(name, text, everything)
    if fnmatchcase(name, "k8s/*.yaml"):
        return problems + check_objects(text)
    for pattern, check in CHECKS.items():
        if fnmatchcase(name, pattern):
            return problems + check(text)
    return [*problems, "no check knows this file"]


def _zero(text: str) -> list[str]:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    values = json.loads(text)
    unknown = [f"{key} is no business of this file" for key in values if key != "zero_optimization"]
    try:
        DeepSpeedZeroConfig(**values.get("zero_optimization", {}))
    except ValueError as error:
        return [*unknown, str(error)]
    return unknown


def _hostfile(text: str) -> list[str]:
    return [f"{line}: give NAME slots=NUMBER" for line in text.splitlines() if not re.fullmatch(r"[\w.:-]+ slots=\d+", line)]


def _variables(text: str) -> list[str]:
    """NAME=VALUE in each line."""
    found = [re.fullmatch(r"([A-Za-z_]\w*)=.*", line) for line in text.splitlines()]
    return ["a line is not NAME=VALUE"] * (None in found) + [problem for match in found if match for problem in check_variable(match[1])]


def _ray_up(text: str) -> list[str]:
    from ray.autoscaler._private.util import prepare_config, validate_config  # what `ray up` itself calls before anything else

    values: dict[str, Any] = yaml.safe_load(text)
    problems = [f"provider.{key} is unknown" for key in values.get("provider", {}) if key not in RAY_PROVIDER]
    if problems or not isinstance(values.get("provider"), dict):
        return problems or ["there is no provider"]
    try:
        validate_config(prepare_config(values))
    except (Exception, SystemExit) as error:  # its own checks end the process
        return [f"ray up: {str(error).splitlines()[0] if str(error) else type(error).__name__}"]
    commands = [line for key, value in values.items() if key.endswith("_commands") for line in value]
    return [problem for line in commands for problem in check_shell(line)]


def _dockerfile(text: str) -> list[str]:
    problems, arguments = [], set()
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    for line in lines:
        word, _, rest = line.partition(" ")
        if word not in DOCKER:
            problems.append(f"{word}: no instruction that we use")
        elif word == "RUN":
            problems += check_shell(rest, environment=frozenset(arguments))
        elif word == "ARG":
            arguments.add(rest.partition("=")[0])
        elif word == "ENV":
            problems += [problem for item in rest.split() for problem in check_variable(item.partition("=")[0])]
        elif word == "COPY":
            problems += [f"COPY {item}: unknown" for item in rest.split() if item.startswith("--") and not item.startswith("--chown=")]
        elif word == "CMD":
            problems += check_shell(" ".join(json.loads(rest)))
    used = " ".join(lines)
    problems += [f"ARG {name} is not used" for name in arguments if not re.search(rf"\$\{{?{name}\b", used)]
    return problems + ([] if any(line.startswith("USER ") and not line.startswith(("USER 0", "USER root")) for line in lines) else ["the image runs as root: give USER"])


def _profile(text: str) -> list[str]:
    try:
        profile = read_profile(text, origin="profile")
    except ValueError as error:
        return [str(error)]
    return [problem for name in profile.environment for problem in check_variable(name)]


CHECKS = {
    "*.sh": check_shell, "*.sbatch": check_shell, "deepspeed/zero?.json": _zero, "deepspeed/hostfile": _hostfile, "deepspeed/deepspeed_env": _variables,
    "ray/cluster.yaml": _ray_up, "docker/*.dockerignore": lambda text: [], "docker/Dockerfile.*": _dockerfile, "*.toml": _profile,
}  # fmt: skip
