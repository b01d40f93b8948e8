"""Two hosts on one machine: each has namespaces of its own for network, processes, mounts and host name, and a cable between them.

    node1 10.77.0.1 --- veth --- 10.77.0.2 node2        /shared of both is one folder; /run, /dev/shm and Ray's folder are each host's own

Whatever a host started ends with its first process. Nothing outside of the namespaces is changed.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT
from tests.processes import wait_until

ADDRESSES = {"node1": "10.77.0.1", "node2": "10.77.0.2"}
TOOLS = ("unshare", "nsenter", "ip", "sshd", "ssh-keygen", "pdsh", "munged", "slurmctld", "slurmd", "sbatch", "openssl")
START_SECONDS = 600  # for what takes 20 s on an idle machine


def missing() -> str | None:
    """Why there can be no lab here, or None."""
    if os.geteuid() != 0:
        return "the lab of two hosts takes root"
    absent = [tool for tool in TOOLS if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    return f"not installed: {', '.join(absent)} (apt install openssh-server pdsh slurmctld slurmd slurm-client munge)" if absent else None


@dataclass(frozen=True)
class Host:
    name: str
    address: str
    first: int
    """Process id of the host's first process, outside."""
    folder: Path
    """The lab's files; the hosts see them as they are."""

    def command(self, words: Sequence[object]) -> list[str]:
        return ["nsenter", "--target", str(self.first), "--mount", "--pid", "--net", "--uts", "--ipc", f"--wd={ROOT}", "--", *map(str, words)]

    def environment(self, more: dict[str, str]) -> dict[str, str]:
        home = self.folder / "home" / self.name
        path = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        kept = {name: os.environ[name] for name in ("PYTHONPATH", "LANG") if name in os.environ}
        return kept | {"HOME": str(home), "PATH": path, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "RAY_USAGE_STATS_ENABLED": "0", "TOKENIZERS_PARALLELISM": "false"} | more

    def start(self, *words: object, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(self.command(words), env=self.environment(environment), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, *words: object, timeout: float = START_SECONDS, **environment: str) -> subprocess.CompletedProcess:
        """What a command on this host printed, and its status."""
        return subprocess.run(
            self.command(words), env=self.environment(environment), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
        )

    def check(self, *words: object, **options: object) -> str:
        result = self.run(*words, **options)
        assert result.returncode == 0, f"{words}: {result.stdout}"
        return result.stdout


@contextmanager
def hosts(folder: Path) -> Iterator[list[Host]]:
    """Both hosts, with a cable, names, and sshd."""
    (folder / "empty").touch()
    (folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in ADDRESSES.items()))
    (folder / "ssh_config").write_text(f"IdentityFile {folder}/key\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
    firsts: list[subprocess.Popen] = []
    try:
        for name in ADDRESSES:
            (folder / "home" / name).mkdir(parents=True)
            firsts.append(subprocess.Popen(["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc", "bash", "-c", _first(name, folder)]))
        wait_until(lambda: all((folder / f"{name}.pid").exists() for name in ADDRESSES), what="the hosts' first processes")
        inner = [int(Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text()) for first in firsts]
        found = [Host(name, address, pid, folder) for (name, address), pid in zip(ADDRESSES.items(), inner, strict=True)]
        subprocess.run(["ip", "link", "add", "lab1", "netns", str(inner[0]), "type", "veth", "peer", "name", "lab2", "netns", str(inner[1])], check=True)
        for host, link in zip(found, ("lab1", "lab2"), strict=True):
            for words in (["link", "set", "lo", "up"], ["link", "set", link, "name", "eth0"], ["addr", "add", f"{host.address}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
                host.check("ip", *words)
            host.check("/usr/sbin/sshd", "-f", "/dev/null", "-h", folder / "key", "-o", f"AuthorizedKeysFile={folder}/key.pub", "-o", "StrictModes=no", "-o", "PermitRootLogin=yes", "-o", "UsePAM=no")
        yield found
    finally:
        for first in firsts:
            first.kill()  # and --kill-child the first process inside, with which its namespace ends
            first.wait()


def _first(name: str, folder: Path) -> str:
    """What the first process of a host does: its own mounts and name, then nothing but collecting orphans."""
    return f"""set -e
hostname {name}
mkdir -p /tmp/ray
for own in /run /tmp/ray /dev/shm; do mount -t tmpfs tmpfs $own; done
mkdir -p /run/sshd
mount --bind {folder}/hosts /etc/hosts
mount --bind {folder}/empty /etc/resolv.conf # a name server that does not answer costs ten seconds at each meeting
mount --bind {folder}/ssh_config /etc/ssh/ssh_config
touch {folder}/{name}.pid
while true; do sleep 3600 & wait $!; done
"""
