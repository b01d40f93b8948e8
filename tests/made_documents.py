"""Documents for tests, written as their texts and images."""

from lcl.core.document import CrawlOrigin, Document, ImageMetadata, ImageSegment, TextSegment


def image(data: bytes | str, *, width: int = 64, height: int = 48) -> ImageSegment:
    """An image of this size by its stored bytes, or by a name where nothing decodes it."""
    return ImageSegment(data.encode() if isinstance(data, str) else data, ImageMetadata(url="u", width=width, height=height, sha256="", source_sha256="", phash=""))


def document(*parts: str | ImageSegment, order: str = "page", key: str = "0" * 32) -> Document:
    segments = tuple(TextSegment(part) if isinstance(part, str) else part for part in parts)
    return Document(key=key, page_url="https://a.example/", crawl=CrawlOrigin(file="f", offset=0, date=""), segments=segments, order=order)
