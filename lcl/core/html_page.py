"""Our HTML pages: templates beside the code that fills them, their common look (house.html beside this file), and pictures inside the page."""

import base64
from pathlib import Path

import jinja2
from PIL import Image

from lcl.core.images import decode_image, encode_jpeg

MARK = b'<meta name="generator" content="lcl">'  # in house.html


def page_template(path: Path) -> jinja2.Template:
    """The template at `path`, which escapes all that it is given and may import house.html. Raises jinja2's UndefinedError where a value is missing."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([path.parent, Path(__file__).parent]), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(path.name)


def page_at(path: Path) -> Path:
    """`path`, for a page. Raises ValueError before any work if a file that is no page of ours stands there."""
    if path.exists() and not (path.is_file() and MARK in path.read_bytes()[:1000]):
        raise ValueError(f"--output {path} is there and is no page of lcl: give another name, or remove it")
    return path


def data_url(media_type: str, data: bytes) -> str:
    """Bytes as an address, so that a page needs no file beside it (RFC 2397)."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def thumbnail(data: bytes, *, height_px: int) -> str:
    """An image file as a small JPEG, at most that high and twice as wide, as an address. Raises Rejected as `decode_image` does."""
    image = decode_image(data, draft_px=height_px)
    image.thumbnail((2 * height_px, height_px), Image.Resampling.LANCZOS)
    return data_url("image/jpeg", encode_jpeg(image, quality=80))
