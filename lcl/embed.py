"""Entry point: features of a folder of images or of shards by a trained encoder, as parquet or safetensors.

    python lcl/embed.py --encoder run --input photos --output features
    python lcl/embed.py --encoder run --input shards/a shards/b --executor ray --output features
"""

from lcl.core.config import run_command
from lcl.core.logs import set_up_logging
from lcl.use.embedding import EmbedConfig, embed


def main(settings: EmbedConfig) -> None:
    set_up_logging()
    record = embed(settings)
    reasons = "".join(f", {count} {reason}" for reason, count in record["rejected"].items())
    passed_over = f", {record['files_passed_over']} other files passed over" if record["files_passed_over"] else ""
    print(f"features of {record['embedded']} images{reasons}{passed_over}: {settings.output}")


if __name__ == "__main__":
    run_command(EmbedConfig, main, description=__doc__.splitlines()[0])
