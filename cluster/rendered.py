"""All files of a profile.

    Profile --> scripts (script_files.py, templates/) and objects (zero_files.py, ray_up.py, kubernetes_files.py) --> {name: text}
"""

import io
import re
from collections.abc import Sequence
from typing import Any

import yaml

from cluster import kubernetes_files
from cluster.ray_up import ray_up
from cluster.script_files import script
from cluster.settings import Profile
from cluster.zero_files import zero_settings
from lcl.core.files import json_bytes

STAGES = (1, 2, 3)
MARK = "rendered-from.toml"  # in every rendered folder: its profile, by which it is known and checked
PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]*")  # what a shell takes as it is


def render_files(profile: Profile) -> dict[str, str]:
    """The text of each file by its name; only those of `profile.places`."""
    files: dict[str, str] = {}
    for place in profile.places:
        files |= FILES[place](profile)
    return files


def _slurm(profile: Profile) -> dict[str, str]:
    names = ["rank", "train", "data_ray", "data_array"] + (["evaluate"] if profile.evaluate is not None else [])
    scripts = {f"slurm/{name}.{'sh' if name == 'rank' else 'sbatch'}": script(f"slurm_{name}", profile) for name in names}
    return scripts | _zero(profile)


def _zero(profile: Profile) -> dict[str, str]:
    return {f"deepspeed/zero{stage}.json": json_bytes(zero_settings(stage, offload=profile.train.offload)).decode() for stage in STAGES}


def _hosts(profile: Profile) -> dict[str, str]:
    files = {
        "deepspeed/hostfile": "".join(f"{name} slots={profile.ranks_per_node}\n" for name in profile.hosts.names[: profile.train.nodes]),
        "deepspeed/deepspeed_env": "".join(map(_plain_line, profile.train_environment.items())),
        "deepspeed/launch.sh": script("deepspeed_launch", profile),
        "ray/cluster.yaml": yaml_text([ray_up(profile)]),
    }
    loopback = profile.ray.dashboard_host in ("127.0.0.1", "localhost", "::1")
    names = ["start_head", "submit"] + (["copy_token", "start_worker"] if len(profile.hosts.names) > 1 else [])
    return files | {f"ray/{name}.sh": script(f"ray_{name}", profile, **({"loopback": loopback} if name == "submit" else {})) for name in names} | _zero(profile)


def _plain_line(variable: tuple[str, str]) -> str:
    """`NAME=value`, which DeepSpeed gives to the shell of each host without quotes. Raises ValueError for a value that a shell would read otherwise."""
    name, value = variable
    if not PLAIN.fullmatch(value):
        raise ValueError(f"environment.{name} is {value!r}: DeepSpeed's launcher gives it to a shell as it is, so hosts take letters, digits and _@%+=:,./- only")
    return f"{name}={value}\n"


def _kubernetes(profile: Profile) -> dict[str, str]:
    objects = kubernetes_files.base(profile)
    files = {f"k8s/base/{name}.yaml": yaml_text(found) for name, found in objects.items()}
    for folder, value in kubernetes_files.kustomizations(profile, list(objects)).items():
        patches = [patch | {"patch": yaml_text([patch["patch"]])} for patch in value.get("patches", [])]
        files[f"k8s/{folder}/kustomization.yaml"] = yaml_text([value | ({"patches": patches} if patches else {})])
    return files


def _docker(profile: Profile) -> dict[str, str]:
    names = {"Dockerfile.cpu": False, "Dockerfile.gpu": True}
    ignored = {f"docker/{name}.dockerignore": ".git\n.venv\ndemo*\noutputs\n**/__pycache__\n" for name in names}
    return {f"docker/{name}": script("docker_image", profile, gpu=gpu) for name, gpu in names.items()} | ignored


FILES = {"slurm": _slurm, "hosts": _hosts, "kubernetes": _kubernetes, "docker": _docker}


class _Dumper(yaml.SafeDumper):
    """Lists are indented below their key, text of several lines is a block, nothing is an anchor."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None))


def yaml_text(documents: Sequence[Any]) -> str:
    """The documents as YAML, keys in their order."""
    written = io.StringIO()
    yaml.dump_all(documents, written, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=10_000)
    return written.getvalue()
