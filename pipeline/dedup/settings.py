"""What deduplication can be told."""

from typing import Annotated

from pydantic import Field

from lcl.core.config import config

Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]


@config
class NearConfig:
    on: bool = True
    """Whether near-duplicates are looked for."""
    bands: Count = 14
    """Bands of the MinHash (datatrove: 14)."""
    rows: Count = 8
    """Values in a band (datatrove: 8); at Jaccard 0.8 the two find 92.4 % of pairs, at 0.7 56 %."""
    jaccard: Share = 0.8
    """Exact Jaccard similarity of shingles from which on two documents are near-duplicates."""
    max_bucket: Annotated[int, Field(ge=2)] = 64
    """Documents with the same band that are compared each with each; in a larger group each is compared with a few."""
    neighbours: Count = 8
    """In a larger group: the documents before it in order, and the first ones of the group, that each one is compared with."""


@config
class ContaminationConfig:
    texts: tuple[str, ...] = ()
    """Files of evaluation texts: .jsonl (strings, or objects with a text), or else one text per line. Documents that share words with one are dropped."""
    ngram_words: Count = 13
    """Words in a row that must be the same (GPT-3, arXiv:2005.14165, appendix C: 13)."""


@config
class DedupConfig:
    exact_url: bool = True
    """One document per page address."""
    exact_text: bool = True
    """One document per text."""
    near: NearConfig = NearConfig()
    image_set: bool = True
    """One document per set of image addresses (OBELICS), those that occur too often not counted."""
    paragraphs: bool = True
    """One copy of a paragraph per domain: the first (OBELICS drops that too)."""
    max_image_url_documents: Annotated[int, Field(ge=0)] = 10
    """Documents that an image address may occur in; a more frequent one is dropped everywhere (OBELICS: 10). 0: any number."""
    max_image_hash_documents: Annotated[int, Field(ge=0)] = 10
    """The same for an image's SHA-256, where the extracted documents have it. 0: any number."""
    contamination: ContaminationConfig = ContaminationConfig()
    group_documents: Count = 1 << 16
    """Documents that one task reads. Changes memory and speed, not the result."""
    partition_documents: Count = 1 << 17
    """Documents per hash partition, on average. Changes memory and speed, not the result."""
