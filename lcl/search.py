"""Entry point: nearest neighbours of images or texts among features of `lcl embed`, as one HTML page.

    python lcl/search.py --features features --output search.html
    python lcl/search.py --features features --text "a red boot" --output boots.html
"""

from lcl.core.config import run_command
from lcl.core.logs import set_up_logging
from lcl.use.search_page import SearchConfig, search


def main(settings: SearchConfig) -> None:
    set_up_logging()
    print(f"nearest images: {search(settings).resolve()}")


if __name__ == "__main__":
    run_command(SearchConfig, main, description=__doc__.splitlines()[0])
