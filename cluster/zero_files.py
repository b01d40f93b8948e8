"""DeepSpeed's settings for each ZeRO stage: how state is partitioned and where it is kept, and nothing else.

The stage itself, precision, batch and optimiser are flags of `lcl pretrain`, which refuses files that say them too (`--engine.deepspeed`, lcl/engine.py).
"""

from typing import Any

# Elements, not bytes, in one collective, of which two buffers are kept: 0.4 GB each in bf16. Names and meanings: DeepSpeed's "Configuration JSON", ZeRO optimizations.
BUCKET_ELEMENTS = 200_000_000


def zero_settings(stage: int, *, offload: bool) -> dict[str, Any]:
    """What stands in zeroN.json; `offload` moves the weights of ZeRO 3 to the host as well."""
    shared = {"overlap_comm": True, "contiguous_gradients": True, "reduce_bucket_size": BUCKET_ELEMENTS}
    if stage < 3:
        return {"zero_optimization": shared | {"allgather_bucket_size": BUCKET_ELEMENTS}}
    partition = {
        "stage3_prefetch_bucket_size": 50_000_000,
        "stage3_param_persistence_threshold": 100_000,  # smaller tensors are kept whole: gathering them costs more than they take
        "stage3_max_live_parameters": 1_000_000_000,
        "stage3_max_reuse_distance": 1_000_000_000,
    }
    return {"zero_optimization": shared | partition | ({"offload_param": {"device": "cpu", "pin_memory": True}} if offload else {})}
