"""Whether a Ray on this machine, or at an address, does work for anyone who asks.

Who may submit jobs to a Ray may run any command as its user: an open job interface is an open machine (CVE-2023-48022). So Ray is started with
a token here (README, lcl/demo.py), in a file that only its owner reads.
"""

import os
import socket
import stat
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from lcl.checks.finding import Finding

JOBS = "/api/jobs/"
DEFAULT_ADDRESS = "http://127.0.0.1:8265"  # of Ray's dashboard
ASK_SECONDS = 5.0
LISTENS = "0A"  # TCP_LISTEN in /proc/net/tcp (Linux, include/net/tcp_states.h)
RAY_PROGRAMS = ("gcs_server", "raylet", "ray::", "ray/dashboard", "ray/_private", "ray/util", "/ray ", "ray start")
TOKEN_CURE = "start it with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE (mode 0600) in the environment, the same for every node and whoever submits (README)"


def check_ray(address: str, *, environment: Mapping[str, str], processes: Path = Path("/proc")) -> Iterator[Finding]:
    """Findings on the job interface at `address`, on the token's file, and on ports of Ray's processes on this machine."""
    yield check_jobs(address)
    yield check_token(environment)
    yield check_ports(processes)


def check_jobs(address: str) -> Finding:
    """Asks for the list of jobs without a token. Any answer but a refusal is a failure."""
    request = urllib.request.Request(address.rstrip("/") + JOBS, headers={"Accept": "application/json"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=ASK_SECONDS) as answer:
            return Finding("ray jobs", "failed", f"{address} gives its jobs to anyone (status {answer.status}): whoever reaches it can run commands there", TOKEN_CURE)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            return Finding("ray jobs", "ok", f"{address} asks for a token")
        return Finding("ray jobs", "warning", f"{address} answers with status {error.code}: this does not look like Ray's job interface", "give the address of its dashboard (--ray)")
    except (urllib.error.URLError, OSError, ValueError) as error:
        return Finding("ray jobs", "note", f"no Ray at {address} ({getattr(error, 'reason', error)})")


def check_token(environment: Mapping[str, str]) -> Finding:
    """The mode of the token's file: Ray makes its own one readable for all."""
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or Path(environment.get("HOME", "~")).expanduser() / ".ray" / "auth_token")
    if environment.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return Finding("ray token", "warning", "RAY_AUTH_MODE=disabled: a Ray that is started here asks for no token", TOKEN_CURE)
    if "RAY_AUTH_TOKEN" in environment:
        return Finding("ray token", "note", "RAY_AUTH_TOKEN is set in the environment; a file (RAY_AUTH_TOKEN_PATH) is seen by fewer")
    if not path.exists():
        return Finding("ray token", "note", f"none in {path}")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Finding("ray token", "failed", f"{path} has mode {mode:04o}: others on this machine can read the token", f"chmod 600 {path}, and make a new token if it was read")
    return Finding("ray token", "ok", f"{path} has mode {mode:04o}")


def check_ports(processes: Path) -> Finding:
    """Ports of Ray's processes that listen on every interface: Ray 2.60 has its own ones there, so a firewall or a token must stand before them."""
    if not (processes / "net" / "tcp").exists():
        return Finding("ray ports", "note", "not looked at: this system has no /proc")
    owners = _socket_owners(processes)
    listening = sorted(
        {(owners[inode], port) for name in ("tcp", "tcp6") for host, port, inode in _listeners(processes / "net" / name) if inode in owners and _is_any(host)}
    )
    if not listening:
        return Finding("ray ports", "ok" if owners else "note", "none listens on every interface" if owners else "no Ray runs on this machine")
    found = ", ".join(f"{name} {port}" for name, port in listening[:8]) + (f" and {len(listening) - 8} more" if len(listening) > 8 else "")
    return Finding(
        "ray ports", "warning", f"{found} listen on every interface",
        "let only the hosts of the cluster reach them (a private network, a firewall, a NetworkPolicy), and start Ray with a token",
    )  # fmt: skip


def _socket_owners(processes: Path) -> dict[str, str]:
    """The program of each socket that a process of Ray has open, by its inode; processes of others cannot be looked at and are left out."""
    found = {}
    for entry in processes.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if not any(program in command for program in RAY_PROGRAMS):
                continue
            name = Path(command.split()[0]).name
            for descriptor in (entry / "fd").iterdir():
                target = os.readlink(descriptor)
                if target.startswith("socket:["):
                    found[target[len("socket:[") : -1]] = name
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue  # of another user, or ended meanwhile
    return found


def _listeners(table: Path) -> Iterator[tuple[str, int, str]]:
    """Address, port and inode of each listening socket in a table of the kernel."""
    for line in table.read_text().splitlines()[1:] if table.exists() else ():
        words = line.split()
        if words[3] == LISTENS:
            host, port = words[1].split(":")
            raw = b"".join(struct.pack("=I", int(host[at : at + 8], 16)) for at in range(0, len(host), 8))
            yield socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw), int(port, 16), words[9]


def _is_any(host: str) -> bool:
    return host in ("0.0.0.0", "::", "::ffff:0.0.0.0")
