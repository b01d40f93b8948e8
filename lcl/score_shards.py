"""Entry point: similarities of images and texts of shards by an encoder, or scores of their images, as parquet for `lcl apply-scores`.

    python lcl/score_shards.py --shards A --checkpoint run --output similarities
    python lcl/score_shards.py --shards A --onnx.image nsfw.onnx --onnx.activation softmax --onnx.column 1 --output nsfw
"""

from lcl.core.config import run_command
from lcl.core.logs import set_up_logging
from lcl.scoring import ScoreConfig, score_set


def main(settings: ScoreConfig) -> None:
    set_up_logging()
    record = score_set(settings)
    print(f"scores of {record['kind']} in {record['documents']} documents: {settings.output}")


if __name__ == "__main__":
    run_command(ScoreConfig, main, description=__doc__.splitlines()[0])
