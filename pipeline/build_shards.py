"""Entry point: crawl files in, WebDataset shards of interleaved documents out.

    python pipeline/build_shards.py --crawl a.warc.gz b.warc.gz --output /data/shards
    ray job submit --address http://127.0.0.1:8265 --working-dir . -- python pipeline/build_shards.py ...
"""

import logging
from pathlib import Path

from lcl.core.config import run_command
from lcl.core.files import read_json
from lcl.core.logs import set_up_logging
from pipeline.build_config import PRESETS, BuildConfig
from pipeline.dedup.lists import REASONS
from pipeline.planning.plan import describe
from pipeline.run_splits import build_shards
from pipeline.timing import summary_lines


def main(config: BuildConfig) -> None:
    set_up_logging()
    report = build_shards(config)
    if config.until == "wanted":
        logging.info("%d images are not in the crawl; `lcl fetch-images --urls %s ...` asks for them, then the same command without --until, with --image-store", report["wanted"], report["folder"])
        return
    documents, images = report["documents"], report["images"]
    logging.info(
        "%d of %d pages became documents with %d of %d images, in %d shards: %s",
        documents["out"], documents["in"], images["out"], images["in"], report["shards"], config.output,
    )
    for kind, counts in (("pages", documents), ("images", images)):
        for reason, count in sorted(counts["dropped"].items(), key=lambda item: -item[1]):
            logging.info("  %s left out: %6d %s", kind, count, reason)
    for line in summary_lines(read_json(Path(config.output) / "timing.json")):
        logging.info(line)
    known = sum(documents["dropped"].get(reason, 0) for reason in REASONS.values())
    if config.extends and known and not documents["out"]:
        logging.info("nothing is new: %d of %d pages are in %s already, or like others; %s holds no shard", known, documents["in"], " ".join(config.extends), config.output)
    elif not documents["out"]:
        raise ValueError(f"no page became a document; {config.output}/report.json says why each was left out. Check the rules (--pages.*, --images.*).")


if __name__ == "__main__":
    run_command(BuildConfig, main, presets=PRESETS, description=__doc__.splitlines()[0], describe=describe)
