"""Our HTML pages: templates beside the code that fills them, and their common look (house.html beside this file)."""

from pathlib import Path

import jinja2


def page_template(path: Path) -> jinja2.Template:
    """The template at `path`, which escapes all that it is given and may import house.html. Raises jinja2's UndefinedError where a value is missing."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([path.parent, Path(__file__).parent]), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(path.name)
