"""The tokenizer of an open_clip export, as files that open_clip reads through transformers, and its text tower.

    text --(our ids)--> <sot> ... <eot> <pad> ...     a text that is too long loses its start, as in ours
LCL reads a text at `<soi>`, in the place of `<eot>`. open_clip reads at `<eot>`, whose row of the embedding here is that of `<soi>`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors
from torch import Tensor

from lcl.core.files import open_aside, write_json
from lcl.core.tokenizer import TOKENIZER_FILE, Tokenizer

START, END, FILL = "<|lcl-sot|>", "<|lcl-eot|>", "<|lcl-pad|>"


def write_tokenizer(folder: Path, tokenizer: Tokenizer, *, context_length: int) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json`: ids equal ours, with `<sot>` before and `<eot>` behind. `<image>`'s id fills.

    Raises ValueError for a vocabulary that has the name of one of the three.
    """
    special = {START: tokenizer.sot, END: tokenizer.eot, FILL: tokenizer.image}
    record = json.loads(tokenizer.of_ordinary_text.to_str())
    vocabulary = record["model"]["vocab"]
    taken = sorted(special.keys() & {word if isinstance(word, str) else word[0] for word in vocabulary})
    if taken:
        raise ValueError(f"the tokenizer has {', '.join(taken)} in its vocabulary, which the export needs as marks of its own")
    if isinstance(vocabulary, list):  # Unigram: an id is a place in the list
        vocabulary += [[name, 0.0] for name in special]
    else:
        vocabulary |= special
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    record["added_tokens"] = [{"id": index, "content": name, **flags} for name, index in special.items()]
    whole = tokenizers.Tokenizer.from_str(json.dumps(record))
    whole.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=[(START, tokenizer.sot), (END, tokenizer.eot)])
    with open_aside(folder / TOKENIZER_FILE) as file:
        file.write(whole.to_str(pretty=True).encode())
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": START, "eos_token": END, "pad_token": FILL, "truncation_side": "left", "padding_side": "right",
            "model_max_length": context_length, "clean_up_tokenization_spaces": False,
        },
    )  # fmt: skip


def text_config(settings: Any, tokenizer: Tokenizer, *, context_length: int) -> dict[str, Any]:
    """open_clip's config of the text tower."""
    return {
        "context_length": context_length, "vocab_size": tokenizer.vocab_size, "width": settings.width, "heads": settings.heads, "layers": settings.layers,
        "pool_type": "eos", "eos_id": tokenizer.eot, "pad_id": tokenizer.image, "hf_tokenizer_name": "in this folder",
    }  # fmt: skip


def text_weights(state: Mapping[str, Tensor], tokenizer: Tokenizer, *, context_length: int) -> dict[str, Tensor]:
    """The language model of an LCL model as open_clip's text tower, its context cut to `context_length` places."""
    text = {name: value for name, value in state.items() if name.startswith("text.")}
    embedding = text["text.token_embedding.weight"].clone()
    embedding[tokenizer.eot] = embedding[tokenizer.soi]
    return text | {"text.token_embedding.weight": embedding, "text.positional_embedding": text["text.positional_embedding"][:context_length].clone()}
