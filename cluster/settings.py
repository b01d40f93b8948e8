"""The one description of a cluster: what is computed, and where. Every file that `lcl cluster render` writes is derived from it."""

import ipaddress
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from lcl.core.config import config, from_dict

Positive = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1024, le=65535)]
Name = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40)]  # what Kubernetes takes (RFC 1123)
AbsolutePath = Annotated[str, Field(pattern=r"^(/|[a-z0-9]+://)")]
LocalPath = Annotated[str, Field(pattern=r"^/")]
HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([-.:A-Za-z0-9]*[A-Za-z0-9])?$")]
Place = Literal["slurm", "hosts", "kubernetes", "docker"]

SECRET = re.compile(r"SECRET|PASSWORD|PASSWD|APIKEY|CREDENTIAL|CONNECTION_STRING|(^|_)(TOKEN|KEY|PASS|PWD|PAT|SAS)(_|$)", re.IGNORECASE)
A_PATH = re.compile(r"(^|_)(FILE|PATH|DIR)$|^GOOGLE_APPLICATION_CREDENTIALS$")  # names of variables that say where a secret lies
SECRET_VALUE = re.compile(r"://[^/\s@]+:[^/\s@]*@|\bAKIA[0-9A-Z]{16}\b|\b(hf|ghp|gho|glpat|sk)[_-][A-Za-z0-9_-]{16,}")  # what URLs, clouds and hubs have
OURS = re.compile(r"RAY_AUTH_|RAY_ADDRESS$|RANK$|LOCAL_RANK$|WORLD_SIZE$|MASTER_(ADDR|PORT)$|PATH$|HOME$|DS_ENV_FILE$")  # set by the scripts, or by the system


@config
class DataJobConfig:
    """`lcl build-shards`."""

    crawl: Annotated[tuple[str, ...], Field(min_length=1)]
    """Crawl files as the command takes them: absolute paths or addresses, of files, folders, globs and lists."""
    output: LocalPath
    """Folder of the shards, on storage that all nodes see."""
    options: tuple[str, ...] = ()
    """Further words of the command."""
    nodes: Positive = 1
    cpus: Positive = 8
    """Of each node."""
    memory_gib: Positive = 32
    """Of each node."""
    array_tasks: Positive = 16
    """Parts of the inputs in the job array (Slurm)."""


@config
class TrainJobConfig:
    """`lcl pretrain` on those shards."""

    preset: str
    output: LocalPath
    """Folder of the run, on storage that all nodes see."""
    shards: tuple[str, ...] = ()
    """Folders of shards; none: the output of the data job."""
    options: tuple[str, ...] = ()
    nodes: Positive = 1
    gpus: Annotated[int, Field(ge=0)] = 8
    """Of each node, a rank on each; 0: one rank a node, on its CPU."""
    cpus: Positive = 8
    """Of each rank."""
    memory_gib: Positive = 64
    """Of each node."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    offload: bool = False
    """The optimiser's state in the host's memory, and with ZeRO 3 the weights too."""
    port: Port = 29500
    """At which rank 0 is met."""
    collective_seconds: Positive = 600
    """After which a collective that some rank does not join ends the run with a message that names the rank."""


@config
class EvalJobConfig:
    """`lcl eval all` of that run."""

    images: AbsolutePath
    """Labelled images."""
    output: LocalPath
    options: tuple[str, ...] = ()


@config
class RayConfig:
    port: Port = 6379
    dashboard_host: str = "127.0.0.1"
    """Where the job interface listens: loopback, or the address of a private network. Kubernetes has a network policy instead."""
    dashboard_port: Port = 8265
    first_worker_port: Port = 10002
    last_worker_port: Port = 19999
    node_manager_port: Port = 6380
    object_manager_port: Port = 6381
    agent_port: Port = 52365
    """Of each node's agent. All of these are fixed, so that a firewall can name them."""
    agent_grpc_port: Port = 6382
    runtime_env_port: Port = 6383
    metrics_port: Port = 6384
    object_store_mib: Annotated[int, Field(ge=76)] = 1024
    """A build keeps its data in files; the store sees counts only."""
    token_file: Annotated[str, Field(pattern=r"^(~/|/)")] = "~/.lcl/ray_token"
    """Made with mode 0600 where it is missing; the same on every host."""


@config
class SlurmConfig:
    partition: str = ""
    """Empty: the cluster's default."""
    account: str = ""
    train_hours: Positive = 24
    data_hours: Positive = 24
    warning_seconds: Annotated[int, Field(ge=30, le=3600)] = 300
    """How long before the time limit a job is told to save."""


@config
class HostsConfig:
    """Machines that are reached by ssh."""

    names: tuple[HostName, ...] = ()
    """Names or addresses, the head first."""
    user: Annotated[str, Field(pattern=r"^[A-Za-z_][-.A-Za-z0-9_]*$")] = "ubuntu"
    """As whom `ray up` logs in; pdsh and ssh do as whoever types, or as ~/.ssh/config says."""


@config
class KubernetesConfig:
    namespace: Name = "lcl"
    image_cpu: str = "registry.example/lcl:cpu"
    image_gpu: str = "registry.example/lcl:gpu"
    storage_class: str = ""
    """Of a kind that many nodes may write (ReadWriteMany); empty: the cluster's default."""
    storage_gib: Positive = 1000
    mount: LocalPath = "/data"
    """Where pods see that storage: the outputs above lie below it."""
    gpu_resource: str = "nvidia.com/gpu"
    operator_namespace: Name = "ray-system"
    """Where KubeRay's operator runs; it alone may ask the job interface from outside."""
    secret: str = ""
    """A Secret of yours whose entries become environment variables (AWS_ACCESS_KEY_ID, ...)."""


@config
class DockerConfig:
    base: str = "python:3.12-slim-bookworm"
    """Append @sha256:... to pin it."""
    extras: str = "data,s3,train,eval"


@config
class Profile:
    places: Annotated[tuple[Place, ...], Field(min_length=1)]
    """What is rendered."""
    name: Name = "lcl"
    setup: tuple[str, ...] = ()
    """Lines of shell that each machine runs first, such as `source /shared/lcl/.venv/bin/activate`."""
    environment: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str] = Field(default_factory=dict)
    """Variables of every job. No secrets: those belong to the machines, or to a Kubernetes Secret."""
    data: DataJobConfig
    train: TrainJobConfig
    evaluate: EvalJobConfig | None = None
    ray: RayConfig = RayConfig()
    slurm: SlurmConfig = SlurmConfig()
    hosts: HostsConfig = HostsConfig()
    kubernetes: KubernetesConfig = KubernetesConfig()
    docker: DockerConfig = DockerConfig()

    def check(self) -> None:
        """Raises ValueError naming the key whose value would give a cluster that is open, tells a secret, or cannot work."""
        for name in self.environment:
            if SECRET.search(name) and not A_PATH.search(name):
                raise ValueError(f"environment.{name} looks like a secret, and would stand in every file: set it on the machines, or give kubernetes.secret")
            if OURS.match(name):
                raise ValueError(f"environment.{name} is set by the files themselves: leave it out")
        if not _is_private(self.ray.dashboard_host):
            raise ValueError(f"ray.dashboard_host {self.ray.dashboard_host!r} opens the job interface to everyone, or is no address: give 127.0.0.1 or the address of a private network")
        if len(set(self.hosts.names)) < len(self.hosts.names):
            raise ValueError(f"hosts.names {' '.join(self.hosts.names)}: each host once")
        if "kubernetes" in self.places and not self.train.gpus:
            raise ValueError("train.gpus is 0: the overlay gpu asks for GPUs; give the GPUs of a node, and take the overlay cpu-smoke to try without")
        if self.ray.first_worker_port >= self.ray.last_worker_port:
            raise ValueError(f"ray.first_worker_port ({self.ray.first_worker_port}) must be below ray.last_worker_port ({self.ray.last_worker_port})")
        ray = self.ray
        fixed = [ray.port, ray.dashboard_port, ray.node_manager_port, ray.object_manager_port, ray.agent_port, ray.agent_grpc_port, ray.runtime_env_port, ray.metrics_port]
        if len(set(fixed)) < len(fixed) or any(self.ray.first_worker_port <= port <= self.ray.last_worker_port for port in fixed):
            raise ValueError(f"ray: the ports {', '.join(map(str, fixed))} must differ, and lie outside of those of workers")
        if self.train.offload and not self.train.zero_stage:
            raise ValueError("train.offload takes ZeRO: give train.zero_stage 1, 2 or 3")
        for path in self.data.crawl:
            if not path.startswith("/") and "://" not in path:
                raise ValueError(f"data.crawl {path} is a relative path, which means something else on each node: give an absolute one")
        if "hosts" in self.places and len(self.hosts.names) < 1:
            raise ValueError("places names hosts, but hosts.names is empty: give their names, the head first")
        if "hosts" in self.places and max(self.train.nodes, self.data.nodes) > len(self.hosts.names):
            raise ValueError(f"train.nodes ({self.train.nodes}) and data.nodes ({self.data.nodes}) must not exceed the {len(self.hosts.names)} hosts.names")
        if "kubernetes" in self.places:
            for key, path in (("data.output", self.data.output), ("train.output", self.train.output)):
                if not Path(path).is_relative_to(self.kubernetes.mount):
                    raise ValueError(f"{key} {path} is not below kubernetes.mount ({self.kubernetes.mount}), where pods see the storage")

    @property
    def ranks_per_node(self) -> int:
        return self.train.gpus or 1

    @property
    def data_words(self) -> list[str]:
        """The command of the data job."""
        return ["lcl", "build-shards", "--crawl", *self.data.crawl, "--output", self.data.output, *self.data.options]

    @property
    def train_options(self) -> list[str]:
        """What stands behind `lcl pretrain`."""
        offload = ["--engine.offload", "cpu"] if self.train.offload else []
        shards = self.train.shards or (self.data.output,)
        return [
            "--preset", self.train.preset, "--data.shards", *shards, "--output", self.train.output, "--engine.zero-stage", str(self.train.zero_stage),
            "--collective-seconds", str(self.train.collective_seconds), *offload, *self.train.options,
        ]  # fmt: skip

    @property
    def train_environment(self) -> dict[str, str]:
        """Variables of a training job; those of the profile count more."""
        on_cpu = {} if self.train.gpus else {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        return on_cpu | self.environment


def _is_private(host: str) -> bool:
    """Whether it is loopback or an address of a private network."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return False
    return address.is_private and not address.is_unspecified


def read_profile(text: str, *, origin: str) -> Profile:
    """The profile, checked. Raises ValueError naming `origin` and the key to mend."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{origin} is no TOML: {error}") from error
    for key, value in _texts(values):
        if SECRET_VALUE.search(value):  # not said again: errors end up in logs
            raise ValueError(f"{origin}: {key} holds what looks like a secret, which would stand in every file: set it on the machines, or give kubernetes.secret")
        if not value.isprintable():
            raise ValueError(f"{origin}: {key} is {value!r}, which has a character that no line of a script can hold: leave it out")
    profile = from_dict(Profile, values, origin=origin)
    profile.check()
    return profile


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in values of TOML, at any depth, by its dotted key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, key)
