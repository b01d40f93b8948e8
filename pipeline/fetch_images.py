"""Entry point: asks sites for the images in URL tables, politely, and stores their bodies with a ledger of what became of each address.

    python pipeline/fetch_images.py --urls /data/urls --output /data/images --contact you@example.org
"""

import logging

from lcl.core.config import run_command
from lcl.core.logs import set_up_logging
from pipeline.fetch.fetch_config import FetchConfig
from pipeline.fetch.run_fetch import fetch_images, plan


def main(settings: FetchConfig) -> None:
    set_up_logging()
    report = fetch_images(settings)
    logging.info("%d of %d addresses gave an image, %d a redirect: %s", report["with_body"], report["addresses"], report["redirected"], settings.output)
    for reason, count in sorted(report["left_out"].items(), key=lambda item: -item[1]):
        logging.info("  left out: %6d %s", count, reason)


if __name__ == "__main__":
    run_command(FetchConfig, main, description=__doc__.splitlines()[0], describe=plan)
