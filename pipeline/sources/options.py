"""What a source may be told beside its files."""

from lcl.core.config import config


@config
class SourceOptions:
    kind: str = "auto"
    """Kind of the files: auto (found out by content and name) or one of crawl, mmc4, obelics, mint, jsonl, pairs, data_juicer, webdataset."""
    url_column: str = ""
    """Column of the image's address in parquet of pairs; empty: url, image_url, ... in any case."""
    text_column: str = ""
    """Column of the caption; empty: text, caption, top_caption, ... in any case."""
    image_column: str = ""
    """Column of the image's bytes; empty: image_bytes, jpg, image, ..."""
