"""Documents of given lengths, written as shards: words of one token each, and noise that compresses like a photograph.

Nothing can be learned from them. They are for timing, where only lengths matter.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field

from lcl.core.config import config, to_dict
from lcl.core.document import CrawlOrigin, Document, ImageMetadata, ImageSegment, Segment, TextSegment, key_of, sha256_hex
from lcl.core.images import encode_jpeg
from lcl.core.shards import write_shard
from lcl.core.tokenizer import Tokenizer

Positive = Annotated[int, Field(ge=1)]

NUM_WORDS = 2000  # as many different words as documents are made of, where the vocabulary has them
GRAIN = 8.0  # standard deviation of the noise on each pixel, of 255: 640 x 480 px take about 90 kB at quality 85, as photographs do
JPEG_QUALITY = 85


@config
class DocumentsConfig:
    text_tokens: Annotated[float, Field(gt=0)] = 425.0
    """Mean of the text tokens of a document (MMC4: 43 B in 101.2 M documents; Zhu et al. 2023, arXiv:2304.06939, and its README)."""
    sigma: Annotated[float, Field(ge=0)] = 0.8
    """Their number is log-normal; this is the deviation of its logarithm. What does not fit a row beside the images is left out."""
    images: Annotated[tuple[int, ...], Field(min_length=1, max_length=2)] = (3, 6)
    """Fewest and most images of a document, each number as likely; one number for exactly as many."""
    image_px: tuple[Positive, Positive] = (64, 48)
    """Width and height of the images."""
    seed: int = 0


def write_documents(
    folder: Path, settings: DocumentsConfig, *, num_documents: int, row_length: int, slots: int, tokenizer: Tokenizer, threads: int = 1
) -> None:
    """Writes shards of documents that each fit one row of `row_length` tokens, with `slots` places for an image. The same arguments give the same bytes.

    Raises ValueError if a row cannot hold the images.
    """
    words = one_token_words(tokenizer)
    most_text = row_length - 2 - settings.images[-1] * (slots + 2)
    if most_text < 1:
        raise ValueError(f"a row of {row_length} tokens cannot hold {settings.images[-1]} images of {slots} places; lower --documents.images, or --images")

    def make(number: int) -> Document:
        random = np.random.default_rng([settings.seed, number])
        num_images = int(random.integers(settings.images[0], settings.images[-1] + 1))
        room = row_length - 2 - num_images * (slots + 2)
        drawn = random.lognormal(np.log(settings.text_tokens) - settings.sigma**2 / 2, settings.sigma)
        return make_document(number, min(room, max(1, round(drawn))), num_images, words=words, image_px=settings.image_px, random=random)

    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(threads) as pool:
        documents = pool.map(make, range(num_documents))
        for shard in range(-(-num_documents // 1000)):
            write_shard(folder, f"synthetic-{shard:05d}", list(islice(documents, 1000)), origin={"documents": to_dict(settings)})


def make_document(
    number: int, num_tokens: int, num_images: int, *, words: Sequence[str], image_px: tuple[int, int], random: np.random.Generator
) -> Document:
    """A document of `num_tokens` text tokens with images at places by chance. Its row is longer: markers and image slots come on top."""
    chosen = [words[index] for index in random.integers(len(words), size=num_tokens)]
    cuts = sorted(random.integers(num_tokens + 1, size=num_images))
    texts = [" ".join(chosen[start:end]) for start, end in zip([0, *cuts], [*cuts, num_tokens], strict=True)]
    segments: list[Segment] = [TextSegment(texts[0])] if texts[0] else []
    for index, text in enumerate(texts[1:]):
        data = encode_jpeg(photograph(*image_px, random=random), quality=JPEG_QUALITY)
        url, digest = f"https://synthetic.example/{number}/{index}.jpg", sha256_hex(data)
        metadata = ImageMetadata(url=url, width=image_px[0], height=image_px[1], sha256=digest, source_sha256=digest, phash="0" * 16)
        segments.append(ImageSegment(data, metadata))
        segments += [TextSegment(text)] if text else []
    page_url = f"https://synthetic.example/{number}.html"
    return Document(
        key=key_of("synthetic", number, page_url), segments=tuple(segments), page_url=page_url,
        crawl=CrawlOrigin(file="synthetic", offset=number, date="2026-01-01T00:00:00Z"),
    )  # fmt: skip


def one_token_words(tokenizer: Tokenizer) -> list[str]:
    """Words that the tokenizer makes one token of each, so that texts have known lengths. Raises ValueError if it has none."""

    def candidates() -> Iterator[str]:
        for index in range(tokenizer.sot):
            word = tokenizer.decode([index]).strip()
            if word.isascii() and word.isalpha() and tokenizer.encode(word) == [index] and tokenizer.encode(f"{word} {word}") == [index] * 2:
                yield word

    words = list(islice(candidates(), NUM_WORDS))
    if not words:
        raise ValueError("model.tokenizer has no word that is one token; take CLIP's merges (leave out model.tokenizer.file)")
    return words


def photograph(width: int, height: int, *, random: np.random.Generator) -> Image.Image:
    """Smooth colours with grain, of this size in px."""
    coarse = random.integers(0, 256, (height // 32 + 2, width // 32 + 2, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.float32)
    grain = random.standard_normal((height, width, 1), dtype=np.float32) * GRAIN
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))
