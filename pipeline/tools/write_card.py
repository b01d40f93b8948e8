"""Entry point: a README.md for a set of shards or a selection: sources, rules, what was left out, counts, limits, how to load it.

    python pipeline/tools/write_card.py --shards A --title "Harbour pages, 2024"
"""

from pathlib import Path

from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging
from pipeline.tools.data_card import CARD, write_card


@config
class CardConfig:
    shards: str
    """Folder of shards, or a selection; the card is written into it."""
    title: str = ""
    """Heading; none: the folder's name."""
    note: str = ""
    """A line under the heading, e.g. whom to ask about removals."""


def main(settings: CardConfig) -> None:
    set_up_logging()
    write_card(Path(settings.shards), title=settings.title, note=settings.note)
    print(f"data card: {(Path(settings.shards) / CARD).resolve()}")


if __name__ == "__main__":
    run_command(CardConfig, main, description=__doc__.splitlines()[0])
