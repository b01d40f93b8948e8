"""Entry point: a byte-level tokenizer (tokenizer.json) from the texts of shards.

    documents of shards --texts--> (NFC) --> words --bytes--> most frequent pairs, one by one --> tokenizer.json
    lcl pretrain --model.tokenizer.file tokenizer.json ...

Its first 256 words are the bytes, so it spells every text. The same documents give the same file, byte for byte.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tokenizers
from pydantic import Field
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from lcl.core.config import config, run_command
from lcl.core.files import open_aside
from lcl.core.logs import progress_bar, set_up_logging
from lcl.core.shards import ShardSet

log = logging.getLogger(__name__)

# GPT-2's idea of a word (Radford et al. 2019): a run of one kind with the space before it. Marks belong to their letters here, which
# Indic scripts need; a number is cut after three digits; English contractions have no alternatives of their own.
WORD = r" ?[\p{L}\p{M}]+|\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
MIN_PAIRS = 2  # a pair that is met once makes no word
NUM_SAMPLED = 1000  # documents that characters per token are counted on


@config
class TrainTokenizerConfig:
    shards: tuple[str, ...]
    """Folders of shards whose texts it learns from."""
    output: str
    """The tokenizer.json file to write; it must not be there yet."""
    vocab_size: Annotated[int, Field(ge=256)] = 32_000
    """Words, the 256 bytes among them; the five special ids of training come on top."""
    max_documents: Annotated[int, Field(ge=1)] | None = None
    """Learn from this many documents, evenly spread over the shards, instead of all."""
    lowercase: bool = False
    """Whether texts are put into lower case, as CLIP does; otherwise they can be decoded to what they were."""


def main(settings: TrainTokenizerConfig) -> None:
    set_up_logging()
    output = Path(settings.output)
    if output.exists():
        raise ValueError(f"{output} is there already, and a model may depend on it: remove it, or give another --output")
    shards = ShardSet([Path(folder) for folder in settings.shards])
    with_text = np.flatnonzero(shards.catalogue["num_characters"].to_numpy()).tolist()
    if not with_text:
        raise ValueError(f"the shards in {', '.join(settings.shards)} hold no text to learn from; see their report.json")
    chosen = spread(with_text, settings.max_documents or len(with_text))
    bpe = train_bpe(shards, chosen, vocab_size=settings.vocab_size, lowercase=settings.lowercase)
    characters = characters_per_token(bpe, shards, spread(chosen, NUM_SAMPLED))
    output.parent.mkdir(parents=True, exist_ok=True)
    with open_aside(output) as file:
        file.write(bpe.to_str().encode())
    num_words = bpe.get_vocab_size()
    if num_words < settings.vocab_size:
        log.warning("--vocab-size %d is more than these texts repeat: there are %d words", settings.vocab_size, num_words)
    log.info("%s: vocabulary of %d words from %d documents, %.2f characters per token", output, num_words, len(chosen), characters)


def spread(items: Sequence[int], count: int) -> list[int]:
    """`count` of the items at even distances, or all of them if there are no more."""
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def train_bpe(shards: ShardSet, chosen: Sequence[int], *, vocab_size: int, lowercase: bool) -> tokenizers.Tokenizer:
    """Byte-level BPE of the texts of the `chosen` documents; fewer words than `vocab_size` where the texts have no more pairs."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()]) if lowercase else normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORD), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=MIN_PAIRS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(_texts(shards, chosen), trainer)
    return bpe


def _texts(shards: ShardSet, chosen: Sequence[int]) -> Iterator[list[str]]:
    with progress_bar("reading", total=len(chosen)) as bar:
        for index in chosen:
            yield shards.read(index).texts
            bar.advance()
    log.info("%d documents read; now the pairs", len(chosen))


def characters_per_token(bpe: tokenizers.Tokenizer, shards: ShardSet, chosen: Sequence[int]) -> float:
    """Mean length, in characters, of a token in the texts of the `chosen` documents, of which at least one holds text."""
    texts = [text for index in chosen for text in shards.read(index).texts]
    num_tokens = sum(len(bpe.encode(text, add_special_tokens=False).ids) for text in texts)
    return sum(map(len, texts)) / num_tokens


if __name__ == "__main__":
    run_command(TrainTokenizerConfig, main, description=__doc__.splitlines()[0])
