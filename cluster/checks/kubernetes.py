"""Kubernetes objects against schemas that refuse unknown fields: those of the core kinds as `kubernetes-validate` carries them, and ours for KubeRay and kustomize.

Ours hold the fields that we use, after KubeRay's API reference (ray.io/v1) and kustomize's (kustomization.yaml); pods in them are the core's.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from importlib.resources import files
from posixpath import dirname, join, normpath
from typing import Any

import jsonpatch
import yaml
from jsonschema.validators import Draft202012Validator
from referencing import Registry, Resource

from cluster.checks.names import check_variable
from cluster.checks.shell import check_shell, ray_options

VERSION = "1.33"  # the oldest release that is still looked after; fields that later ones brought are refused
CORE = {
    ("v1", "PersistentVolumeClaim"): "persistentvolumeclaim-v1", ("v1", "Service"): "service-v1", ("batch/v1", "Job"): "job-batch-v1",
    ("networking.k8s.io/v1", "NetworkPolicy"): "networkpolicy-networking-v1", ("policy/v1", "PodDisruptionBudget"): "poddisruptionbudget-policy-v1",
}  # fmt: skip
DEFINITIONS = "https://kubernetes.io/api/_definitions.json"
# Keys of labels in our objects, among them those that Kubernetes and KubeRay put on theirs.
LABELS = {"app.kubernetes.io/part-of", "app.kubernetes.io/component", "kubernetes.io/metadata.name", "ray.io/node-type"}
QUANTITIES = {"cpu", "memory", "storage", "nvidia.com/gpu", "amd.com/gpu"}
POD_VARIABLES = frozenset({"NODE_RANK"})


def _closed(properties: Mapping[str, Any], *, required: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(required), "additionalProperties": False}


def _core(name: str) -> dict[str, str]:
    return {"$ref": f"{DEFINITIONS}#/$defs/io.k8s.{name}"}


COUNT = {"type": "integer", "minimum": 0}
TEXT = {"type": "string"}
POD = _core("api.core.v1.PodTemplateSpec")
METADATA = _core("apimachinery.pkg.apis.meta.v1.ObjectMeta")


@cache
def _schemas() -> dict[tuple[str, str], dict[str, Any]]:
    parameters = {"type": "object", "propertyNames": {"enum": sorted(option.removeprefix("--") for option in ray_options("start"))}, "additionalProperties": TEXT}
    group = {"rayStartParams": parameters, "template": POD}
    counts = {name: COUNT for name in ("replicas", "minReplicas", "maxReplicas")}
    ray_cluster = _closed(
        {
            "rayVersion": TEXT,
            "authOptions": _closed({"mode": {"const": "token"}}, required=("mode",)),
            "headGroupSpec": _closed(group, required=("rayStartParams", "template")),
            "workerGroupSpecs": {"type": "array", "items": _closed({"groupName": TEXT, **counts, **group}, required=("groupName", *counts, *group))},
        },
        required=("authOptions", "headGroupSpec"),
    )
    ray_job = _closed(
        {
            "entrypoint": TEXT, "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]}, "backoffLimit": COUNT,
            "shutdownAfterJobFinishes": {"type": "boolean"}, "ttlSecondsAfterFinished": COUNT, "rayClusterSpec": ray_cluster,
        },
        required=("entrypoint", "rayClusterSpec"),
    )  # fmt: skip
    target = _closed({name: TEXT for name in ("group", "version", "kind", "name")}, required=("kind", "name"))
    patch = _closed({"target": target, "patch": TEXT}, required=("target", "patch"))
    head = {"apiVersion": TEXT, "kind": TEXT}
    kustomization = head | {"namespace": TEXT, "resources": {"type": "array", "items": TEXT}, "patches": {"type": "array", "items": patch}}
    named = head | {"metadata": METADATA}
    return {
        ("ray.io/v1", "RayCluster"): _closed(named | {"spec": ray_cluster}, required=("metadata", "spec")),
        ("ray.io/v1", "RayJob"): _closed(named | {"spec": ray_job}, required=("metadata", "spec")),
        ("kustomize.config.k8s.io/v1beta1", "Kustomization"): _closed(kustomization, required=("resources",)),
    }


PATCHES = {
    "type": "array", "minItems": 1,
    "items": _closed({"op": {"enum": ["add", "replace", "remove"]}, "path": TEXT, "value": {}}, required=("op", "path", "value")),
}  # fmt: skip


@cache
def _read(name: str) -> dict[str, Any]:
    return json.loads((files("kubernetes_validate") / "kubernetes-json-schema" / f"v{VERSION}.0-local-strict" / f"{name}.json").read_text())


@cache
def _registry() -> Registry:
    return Registry().with_resource(DEFINITIONS, Resource.from_contents(_read("_definitions")))


@cache
def _validator(version: str, kind: str) -> Draft202012Validator | None:
    schema = _read(CORE[version, kind]) if (version, kind) in CORE else _schemas().get((version, kind))
    return None if schema is None else Draft202012Validator(schema, registry=_registry())


@lru_cache(64)
def objects_in(text: str) -> tuple[Any, ...]:
    """The documents of a YAML file. Nobody changes them: patches are applied to copies."""
    return tuple(yaml.load_all(text, Loader=yaml.CSafeLoader))


def check_objects(text: str) -> list[str]:
    """Problems of the objects in a YAML file."""
    return [problem for value in objects_in(text) for problem in check_object(value)]


def check_object(value: Any) -> list[str]:
    if not isinstance(value, dict) or not {"apiVersion", "kind"} <= set(value):
        return ["an object without apiVersion and kind"]
    validator = _validator(value["apiVersion"], value["kind"])
    if validator is None:
        return [f"no schema here is of {value['apiVersion']} {value['kind']}"]
    name = f"{value['kind']} {value.get('metadata', {}).get('name', '')}".strip()
    problems = [f"{name}, {error.json_path}: {error.message}" for error in validator.iter_errors(value)]
    return problems or [f"{name}: {problem}" for problem in _check_maps(value)]


def _check_maps(value: dict[str, Any]) -> list[str]:
    """Problems of what schemas leave open: keys of labels and of amounts, names of variables, commands."""
    problems = []
    for key, found in _walk(value):
        if key in ("labels", "matchLabels") or (key == "selector" and value["kind"] == "Service"):
            problems += [f"label {label}: unknown" for label in found if label not in LABELS]
        elif key in ("requests", "limits"):
            problems += [f"amount of {amount}: unknown" for amount in found if amount not in QUANTITIES]
        elif key == "env":
            problems += [problem for item in found for problem in check_variable(item["name"])]
        elif key == "command":
            problems += check_shell(found[2], environment=POD_VARIABLES) if found[:2] == ["/bin/bash", "-c"] else [f"command {found}: give /bin/bash -c SCRIPT"]
        elif key == "entrypoint":
            problems += check_shell(found)
    return problems


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    for key, found in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield str(key), found
        yield from _walk(found)


def check_kustomization(name: str, text: str, everything: Mapping[str, str]) -> list[str]:
    """Problems of a kustomization.yaml among `everything`: its own fields, files that are not there, and objects as its patches leave them."""
    (value,) = objects_in(text)
    problems = check_object(value)
    if problems:
        return problems
    objects: list[dict[str, Any]] = []
    for resource in value["resources"]:
        path = normpath(join(dirname(name), resource))
        inner = f"{path}/kustomization.yaml"
        paths = [normpath(join(path, item)) for item in objects_in(everything[inner])[0]["resources"]] if inner in everything else [path]
        problems += [f"{missing} is not there" for missing in paths if missing not in everything]
        objects += [found for one in paths if one in everything for found in objects_in(everything[one])]
    for patch in value.get("patches", []):
        problems += _check_patch(patch, objects)
    return problems


def _check_patch(patch: Mapping[str, Any], objects: list[dict[str, Any]]) -> list[str]:
    changes = yaml.load(patch["patch"], Loader=yaml.CSafeLoader)
    wrong = [f"patch, {error.json_path}: {error.message}" for error in Draft202012Validator(PATCHES).iter_errors(changes)]
    if wrong:
        return wrong
    target = patch["target"]
    version = "/".join(target[key] for key in ("group", "version") if key in target)
    found = [item for item in objects if (item["apiVersion"], item["kind"], item["metadata"]["name"]) == (version, target["kind"], target["name"])]
    if not found:
        return [f"a patch is for {version} {target['kind']} {target['name']}, which is not there"]
    try:
        return check_object(jsonpatch.apply_patch(found[0], changes))
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
        return [f"the patch of {target['kind']} {target['name']} does not fit: {error}"]
