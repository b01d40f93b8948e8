"""Kubernetes objects: a RayJob and a RayCluster of KubeRay for the data, an Indexed Job for the training, what they stand on, and two overlays.

    base/        storage, network policy, disruption budgets, RayCluster, RayJob, Service + Job, on CPUs
    overlays/    gpu: the training on GPUs;  cpu-smoke: everything at the size of one small machine
"""

import shlex
from collections.abc import Sequence
from typing import Any

from cluster.settings import Profile

Object = dict[str, Any]

RAY_VERSION = "2.60.0"  # KubeRay reads it to know what this Ray can do; the project's own (pyproject.toml)
GRACE_SECONDS = 300  # after SIGTERM, for a last checkpoint
USER = 1000  # the images' own


def base(profile: Profile) -> dict[str, list[Object]]:
    """The objects by the name of their file."""
    return {
        "storage": [_storage(profile)],
        "network_policy": [_network_policy(profile)],
        "disruption_budget": [
            _budget(profile, "train", _labels(profile, "train"), profile.train.nodes),
            _budget(profile, "ray-head", _labels(profile, "data") | {"ray.io/node-type": "head"}, 1),
        ],
        "ray_cluster": [_object(profile, "ray.io/v1", "RayCluster", "ray", _ray_cluster(profile), component="ray")],
        "data_job": [_object(profile, "ray.io/v1", "RayJob", "data", _ray_job(profile), component="data")],
        "train_job": [_service(profile), _object(profile, "batch/v1", "Job", "train", _train_job(profile), component="train")],
    }


def kustomizations(profile: Profile, names: Sequence[str]) -> dict[str, Object]:
    """kustomization.yaml of the base and of each overlay, by folder. `names` are the base's files."""
    return {
        "base": _kustomization(namespace=profile.kubernetes.namespace, resources=[f"{name}.yaml" for name in names]),
        "overlays/gpu": _kustomization(resources=["../../base"], patches=[_patch(profile, "batch", "v1", "Job", "train", _gpu_changes(profile))]),
        "overlays/cpu-smoke": _kustomization(resources=["../../base"], patches=_smoke_patches(profile)),
    }


def _object(profile: Profile, version: str, kind: str, name: str, spec: Object, *, component: str) -> Object:
    """`component` is by which `kubectl apply -l` takes a part of them: ground, ray, data, train."""
    return {"apiVersion": version, "kind": kind, "metadata": {"name": f"{profile.name}-{name}", "labels": _labels(profile, component)}, "spec": spec}


def _labels(profile: Profile, component: str) -> dict[str, str]:
    return {"app.kubernetes.io/part-of": profile.name, "app.kubernetes.io/component": component}


def _storage(profile: Profile) -> Object:
    settings = profile.kubernetes
    storage_class = {"storageClassName": settings.storage_class} if settings.storage_class else {}
    spec = {"accessModes": ["ReadWriteMany"], **storage_class, "resources": {"requests": {"storage": f"{settings.storage_gib}Gi"}}}
    return _object(profile, "v1", "PersistentVolumeClaim", "data", spec, component="ground")


def _network_policy(profile: Profile) -> Object:
    """Pods of this project hear each other, and the operator at the job interface; nobody else."""
    among = {"from": [{"podSelector": {"matchLabels": {"app.kubernetes.io/part-of": profile.name}}}]}
    operator = {
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": profile.kubernetes.operator_namespace}}}],
        "ports": [{"protocol": "TCP", "port": profile.ray.dashboard_port}],
    }
    selector = {"matchLabels": {"app.kubernetes.io/part-of": profile.name}}
    return _object(profile, "networking.k8s.io/v1", "NetworkPolicy", "closed", {"podSelector": selector, "policyTypes": ["Ingress"], "ingress": [among, operator]}, component="ground")


def _budget(profile: Profile, name: str, labels: dict[str, str], number: int) -> Object:
    """Nobody drains a node under these pods. Pods of jobs cannot be counted by maxUnavailable, so it says how many must stay."""
    return _object(profile, "policy/v1", "PodDisruptionBudget", name, {"minAvailable": number, "selector": {"matchLabels": labels}}, component="ground")


def _variables(values: dict[str, str]) -> list[Object]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _resources(cpus: int, memory_gib: int) -> Object:
    amounts = {"cpu": str(cpus), "memory": f"{memory_gib}Gi"}
    return {"requests": amounts, "limits": dict(amounts)}


def _pod(profile: Profile, container: Object, *, component: str, shared_memory: str, **more: Any) -> Object:
    """A pod template: not root, no way to become it, the shared storage and memory for shared tensors or Ray's objects."""
    secret = [{"secretRef": {"name": profile.kubernetes.secret}}] if profile.kubernetes.secret else []
    container = container | {
        "envFrom": secret,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "data", "mountPath": profile.kubernetes.mount}, {"name": "shm", "mountPath": "/dev/shm"}],
    }
    volumes = [
        {"name": "data", "persistentVolumeClaim": {"claimName": f"{profile.name}-data"}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory}},
    ]
    spec = {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{key: value for key, value in container.items() if value != []}],
        "volumes": volumes,
        **more,
    }
    return {"metadata": {"labels": _labels(profile, component)}, "spec": spec}


def _ray_cluster(profile: Profile) -> Object:
    """Head and workers. KubeRay makes the token, a Secret of its own, and gives it to every pod."""
    return {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token"},
        "headGroupSpec": {"rayStartParams": _ray_parameters(profile) | {"dashboard-port": str(profile.ray.dashboard_port)}, "template": _ray_pod(profile, "ray-head")},
        "workerGroupSpecs": [
            {"groupName": "workers", "replicas": profile.data.nodes - 1, "minReplicas": 0, "maxReplicas": profile.data.nodes - 1, "rayStartParams": _ray_parameters(profile), "template": _ray_pod(profile, "ray-worker")}
        ],
    }  # fmt: skip


def _ray_parameters(profile: Profile) -> dict[str, str]:
    return {"num-cpus": str(profile.data.cpus), "object-store-memory": str(profile.ray.object_store_mib << 20)}


def _ray_pod(profile: Profile, name: str) -> Object:
    container = {
        "name": name, "image": profile.kubernetes.image_cpu, "env": _variables(profile.environment | {"RAY_USAGE_STATS_ENABLED": "0"}),
        "resources": _resources(profile.data.cpus, profile.data.memory_gib),
    }  # fmt: skip
    return _pod(profile, container, component="data", shared_memory=f"{2 * profile.ray.object_store_mib}Mi")


def _ray_job(profile: Profile) -> Object:
    """A cluster for one build. A build that is tried again continues, so a lost head costs little; the submitter is in the head's pod, and opens no port."""
    cluster = _ray_cluster(profile)
    cluster["headGroupSpec"]["template"]["spec"]["restartPolicy"] = "Never"  # KubeRay asks for it where the submitter is a sidecar
    return {
        "entrypoint": shlex.join(profile.data_words), "submissionMode": "SidecarMode", "backoffLimit": 3, "shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": 600,
        "rayClusterSpec": cluster,
    }  # fmt: skip


def _service(profile: Profile) -> Object:
    """Gives the pods of the training names. They must be known before the pods are ready, for that is when they meet."""
    spec = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": _labels(profile, "train"), "ports": [{"name": "rendezvous", "port": profile.train.port}]}
    return _object(profile, "v1", "Service", "train", spec, component="train")


def _train_script(profile: Profile, *, nodes: int, ranks: int, options: Sequence[str]) -> str:
    """SIGTERM, which comes to the shell alone, goes on to the ranks: they save and end with status 0. The last line makes that a failure, so that the Job starts the pod again."""
    name = f"{profile.name}-train"
    launch = ["torchrun", "--nnodes", str(nodes), "--nproc-per-node", str(ranks)]
    meet = ["--master-addr", f"{name}-0.{name}", "--master-port", str(profile.train.port), "--module", "lcl.pretrain", *options]
    status = shlex.quote(f"{profile.train.output}/status.json")
    return f"""set -euo pipefail
trap 'kill "$LAUNCHER"' TERM
{shlex.join(launch)} --node-rank "$NODE_RANK" {shlex.join(meet)} &
LAUNCHER=$!
wait "$LAUNCHER" || true # a signal ends this wait early
wait "$LAUNCHER"
grep -q '"finished": true' {status}
"""


def _train_job(profile: Profile) -> Object:
    train = profile.train
    index = {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
    container = {
        "name": "train", "image": profile.kubernetes.image_cpu, "command": ["/bin/bash", "-c", _train_script(profile, nodes=train.nodes, ranks=1, options=profile.train_options)],
        "env": [{"name": "NODE_RANK", "valueFrom": index}, *_variables({"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"} | profile.train_environment)],
        "resources": _resources(train.cpus * profile.ranks_per_node, train.memory_gib),
    }  # fmt: skip
    pod = _pod(
        profile, container, component="train", shared_memory=f"{max(1, train.memory_gib // 4)}Gi", restartPolicy="Never", subdomain=f"{profile.name}-train",
        terminationGracePeriodSeconds=GRACE_SECONDS,
    )  # fmt: skip
    return {
        "completionMode": "Indexed", "completions": train.nodes, "parallelism": train.nodes, "backoffLimit": 20 * train.nodes,
        "podFailurePolicy": {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]},
        "template": pod,
    }  # fmt: skip


def _kustomization(**fields: Any) -> Object:
    return {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", **fields}


def _patch(profile: Profile, group: str, version: str, kind: str, name: str, changes: dict[str, Any]) -> Object:
    """JSON patches (RFC 6902) of one object. Only values that are there are replaced, so that a wrong path is an error."""
    target = {"group": group, "version": version, "kind": kind, "name": f"{profile.name}-{name}"}
    return {"target": {key: value for key, value in target.items() if value}, "patch": [{"op": "replace", "path": path, "value": value} for path, value in changes.items()]}


CONTAINER = "/spec/template/spec/containers/0"


def _gpu_changes(profile: Profile) -> dict[str, Any]:
    train = profile.train
    ranks = profile.ranks_per_node
    resources = _resources(train.cpus * ranks, train.memory_gib)
    resources["limits"][profile.kubernetes.gpu_resource] = str(ranks)
    index = _train_job(profile)["template"]["spec"]["containers"][0]["env"][0]
    return {
        f"{CONTAINER}/image": profile.kubernetes.image_gpu,
        f"{CONTAINER}/command/2": _train_script(profile, nodes=train.nodes, ranks=ranks, options=profile.train_options),
        f"{CONTAINER}/env": [index, *_variables(profile.train_environment)],
        f"{CONTAINER}/resources": resources,
    }


def _smoke_patches(profile: Profile) -> list[Object]:
    """Two ranks of the toy preset, a head and one worker of one CPU each."""
    small = _resources(1, 3)
    options = [("toy" if before == "--preset" else word) for before, word in zip(["", *profile.train_options], profile.train_options, strict=False)]
    train = {
        "/spec/completions": 2, "/spec/parallelism": 2, f"{CONTAINER}/resources": small,
        f"{CONTAINER}/command/2": _train_script(profile, nodes=2, ranks=1, options=options), "/spec/template/spec/volumes/1/emptyDir/sizeLimit": "512Mi",
    }  # fmt: skip
    patches = [
        _patch(profile, "", "v1", "PersistentVolumeClaim", "data", {"/spec/resources/requests/storage": "5Gi"}),
        _patch(profile, "policy", "v1", "PodDisruptionBudget", "train", {"/spec/minAvailable": 2}),
        _patch(profile, "batch", "v1", "Job", "train", train),
    ]
    for kind, name, path in (("RayCluster", "ray", "/spec"), ("RayJob", "data", "/spec/rayClusterSpec")):
        worker, changes = f"{path}/workerGroupSpecs/0", {}
        for group in (f"{path}/headGroupSpec", worker):
            changes |= {f"{group}/rayStartParams/num-cpus": "1", f"{group}/rayStartParams/object-store-memory": str(100 << 20)}
            changes |= {f"{group}/template/spec/containers/0/resources": small, f"{group}/template/spec/volumes/1/emptyDir/sizeLimit": "256Mi"}
        patches.append(_patch(profile, "ray.io", "v1", kind, name, changes | {f"{worker}/replicas": 1, f"{worker}/maxReplicas": 1}))
    return patches
