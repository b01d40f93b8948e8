"""Entry point: where an encoder's pooling looks, as PNG files and one HTML page.

    python lcl/attention_maps.py --images photos --output attention.html
"""

from lcl.core.config import run_command
from lcl.core.logs import set_up_logging
from lcl.use.attention_page import AttentionMapsConfig, write_attention_page


def main(settings: AttentionMapsConfig) -> None:
    set_up_logging()
    path, shown, given = write_attention_page(settings)
    print(f"attention maps of {shown} of {given} images: {path.resolve()}")


if __name__ == "__main__":
    run_command(AttentionMapsConfig, main, description=__doc__.splitlines()[0])
