"""Small sets of shards for the tests of tools: documents that differ in all that a tool can ask for."""

import os
import random
from pathlib import Path

from PIL import Image

from lcl.core.document import CrawlOrigin, Document, ImageMetadata, ImageSegment, TextSegment, key_of, sha256_hex
from lcl.core.images import encode_jpeg
from lcl.core.shards import write_shard

CC_BY = "https://creativecommons.org/licenses/by/4.0/"


def made_image(number: int, *, size: tuple[int, int] = (24, 16), url: str | None = None) -> ImageSegment:
    """A picture that no other number gives."""
    chance = random.Random(number)
    data = encode_jpeg(Image.frombytes("RGB", size, chance.randbytes(3 * size[0] * size[1])), quality=60)
    metadata = ImageMetadata(
        url=url or f"https://img{number % 3}.example/{number}.jpg", width=size[0], height=size[1], sha256=sha256_hex(data),
        source_sha256=sha256_hex(f"source {number}".encode()), phash=f"{chance.getrandbits(64):016x}", alt=f"picture {number}",
    )
    return ImageSegment(data, metadata)


def made_document(number: int, *, num_images: int | None = None, text: str | None = None, url: str | None = None, license: str | None = None) -> Document:
    """Document `number`: 0 to 2 images between texts, one of four domains, a score that every third lacks."""
    count = number % 3 if num_images is None else num_images
    segments: list = [TextSegment(f"Document {number} begins." if text is None else text)]
    for image in range(count):
        segments += [made_image(10 * number + image), TextSegment(f"After picture {image} of {number}.")]
    address = f"https://d{number % 4}.example/{number}" if url is None else url
    return Document(
        key=key_of("crawl.warc.gz", number, address), segments=tuple(segments), page_url=address,
        crawl=CrawlOrigin(file="crawl.warc.gz", offset=1000 * number, date="2024-01-01T00:00:00Z"), language=("en", "de", "")[number % 3],
        license=(CC_BY if number % 5 == 0 else "") if license is None else license,
        scores={"words": float(number)} | ({} if number % 3 == 2 else {"language_rank": 100.0 * number}),
    )


def made_set(folder: Path, documents: list[Document], *, per_shard: int = 7) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(documents), per_shard)):
        write_shard(folder, f"made-{number:05d}", documents[start : start + per_shard], origin={"by": "test"})
    return folder


def file_states(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of change (ns) of every file below, by relative path."""
    return {str(path.relative_to(folder)): (path.read_bytes(), os.stat(path).st_mtime_ns) for path in sorted(folder.rglob("*")) if path.is_file()}


def file_bytes(folder: Path) -> dict[str, bytes]:
    """Bytes of every file below, without the record of the run, which holds its time."""
    return {name: data for name, (data, _) in file_states(folder).items() if name != "run.json"}
