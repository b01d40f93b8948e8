"""Entry point: features of a folder of images or of shards by a trained encoder, as parquet or safetensors.

    python lcl/embed.py --input photos --output features
    python lcl/embed.py --encoder run --input shards/a shards/b --executor ray --output features
"""

from lcl.core.config import run_command
from lcl.core.logs import set_up_logging
from lcl.use.embedding import EmbedConfig, embed


def main(settings: EmbedConfig) -> None:
    set_up_logging()
    record = embed(settings)
    reasons = "".join(f", {count} {reason}" for reason, count in record["rejected"].items())
    others = record["files_passed_over"]
    passed_over = f", {others} other file{'s' if others > 1 else ''} passed over" if others else ""
    print(f"features of {record['embedded']} images{reasons}{passed_over}: {settings.output}")


if __name__ == "__main__":
    run_command(EmbedConfig, main, description=__doc__.splitlines()[0])
