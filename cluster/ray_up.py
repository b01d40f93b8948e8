"""The file that `ray up` takes, for machines that are there already (provider `local`: no cloud's keys, nothing is rented)."""

from typing import Any

from cluster.script_files import script, shell_path
from cluster.settings import Profile


def ray_up(profile: Profile) -> dict[str, Any]:
    """The cluster's description. `ray up` copies the token from the machine that it is typed on, where start_head.sh or copy_token.sh made it."""
    settings = profile.ray
    token = settings.token_file
    head, *workers = profile.hosts.names
    return {
        "cluster_name": profile.name,
        "provider": {"type": "local", "head_ip": head, "worker_ips": workers},
        "auth": {"ssh_user": profile.hosts.user},
        "min_workers": len(workers),
        "max_workers": len(workers),
        "file_mounts": {token: token},
        "setup_commands": [f"chmod 600 {shell_path(token)}"],
        "head_start_ray_commands": [script("ray_up_head", profile)],
        "worker_start_ray_commands": [script("ray_up_worker", profile)],
    }
