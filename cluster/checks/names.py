"""Names that are not ours: which are known, and which look like a known one misspelt.

Where a program tells its options, they are asked of it. The lists here are of names that nothing on this machine can be asked for.
"""

import difflib
from collections.abc import Collection

# Read by what runs: PyTorch's launcher contract, NCCL's and Gloo's documentation, DeepSpeed, Ray, OpenMP, tokenizers, AWS.
VARIABLES = frozenset(
    """RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT NODE_RANK PATH HOME BASH_SOURCE PYTHONUNBUFFERED OMP_NUM_THREADS TOKENIZERS_PARALLELISM
    NCCL_DEBUG NCCL_SOCKET_IFNAME NCCL_IB_HCA NCCL_IB_DISABLE NCCL_P2P_DISABLE GLOO_SOCKET_IFNAME TORCH_NCCL_ASYNC_ERROR_HANDLING CUDA_VISIBLE_DEVICES
    DS_ACCELERATOR DS_ENV_FILE RAY_ADDRESS RAY_AUTH_MODE RAY_AUTH_TOKEN_PATH RAY_HEAD_IP RAY_USAGE_STATS_ENABLED
    RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT HF_HUB_OFFLINE AWS_ENDPOINT_URL AWS_REGION TMPDIR""".split()
)
# Set by Slurm in every batch script and task ("OUTPUT ENVIRONMENT VARIABLES" of sbatch and srun).
SLURM_VARIABLES = frozenset(
    """SLURM_JOB_ID SLURM_JOB_NODELIST SLURM_CPUS_PER_TASK SLURM_SUBMIT_DIR SLURM_PROCID SLURM_LOCALID SLURM_NTASKS SLURM_ARRAY_TASK_ID""".split()
)
# Options of sbatch in our scripts, with what may stand behind the = (its manual).
SBATCH = {
    "job-name": r"[\w.-]+", "partition": r"[\w.,-]+", "account": r"[\w.-]+", "time": r"\d+:\d\d:\d\d", "requeue": "", "open-mode": "append|truncate", "output": r"\S+",
    "nodes": r"\d+", "ntasks": r"\d+", "ntasks-per-node": r"\d+", "cpus-per-task": r"\d+", "mem": r"\d+[MG]", "gpus-per-node": r"\d+", "exclusive": "",
    "signal": r"(B:)?(USR1|TERM)@\d+", "array": r"\d+-\d+(%\d+)?",
}  # fmt: skip
CLOSE = 0.75  # difflib's ratio: one letter more in a name of two is 0.8


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that `name` looks like, if it is not known itself."""
    return None if name in known else next(iter(difflib.get_close_matches(name, known, n=1, cutoff=CLOSE)), None)


def check_variable(name: str) -> list[str]:
    """A problem if the name of an environment variable looks misspelt; other unknown names are somebody's own."""
    near = nearest(name, VARIABLES | SLURM_VARIABLES)
    return [f"variable {name}: did you mean {near}?"] if near else []
