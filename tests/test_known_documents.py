"""What a set holds, for a build that extends it."""

from pathlib import Path

from lcl.core.document import text_hash
from pipeline.addresses import normal_url
from pipeline.known_documents import known_documents
from tests.made_shards import made_document, made_set


def test_all_documents_are_listed_shard_by_shard(tmp_path: Path) -> None:
    documents = [made_document(number) for number in range(10)]
    parts = list(known_documents([made_set(tmp_path, documents, per_shard=4)]))
    assert [len(part.urls) for part in parts] == [4, 4, 2]
    assert [text for part in parts for text in part.text_xxh128] == [text_hash(item) for item in documents]
    assert [url for part in parts for url in part.urls] == [normal_url(item.page_url) for item in documents]
    assert [sums for part in parts for sums in part.image_sha256] == [[image.metadata.sha256 for image in item.images] for item in documents]
