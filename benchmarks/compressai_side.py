"""CompressAI's mean-scale hyperprior at work, in its own environment: answers each line of input with a line of JSON.

    python compressai_side.py WEIGHTS.npz WIDTH LATENT_WIDTH

    a line: a file of one picture, [3, height, width] float32 in [0, 1], padded --> bytes, seconds of encoding and decoding, and PICTURE.answer.npz with the pass in floats
"""

import json
import sys
import time

import numpy as np
import torch
from compressai.models import MeanScaleHyperprior

torch.set_num_threads(1)


@torch.no_grad()
def main(weights: str, width: str, latent_width: str) -> None:
    model = MeanScaleHyperprior(int(width), int(latent_width)).eval()
    state = {name: torch.from_numpy(value) for name, value in np.load(weights).items()}
    missing = set(state) - set(model.state_dict())
    assert not missing, f"CompressAI has no weights called {missing}"
    model.load_state_dict(model.state_dict() | state)
    model.update(force=True)
    print(json.dumps({"parameters": sum(one.numel() for one in model.parameters())}), flush=True)
    for line in sys.stdin:
        path = line.strip()
        x = torch.from_numpy(np.load(path))[None]
        passed = model(x)
        np.savez(f"{path}.answer.npz", x_hat=passed["x_hat"].numpy(), bits=sum(float(-one.log2().sum()) for one in passed["likelihoods"].values()))
        started = time.perf_counter()
        coded = model.compress(x)
        between = time.perf_counter()
        model.decompress(coded["strings"], coded["shape"])
        ended = time.perf_counter()
        print(json.dumps({"bytes": sum(len(one[0]) for one in coded["strings"]), "encode_seconds": between - started, "decode_seconds": ended - between}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
