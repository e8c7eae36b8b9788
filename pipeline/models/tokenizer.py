"""The tokenizer of a checkpoint, in the form in which vLLM serves it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pipeline.errors import InputError


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Return a checkpoint's tokenizer, as transformers reads it for vLLM.

    SentencePiece, tiktoken and Mistral's tekken files are converted to the form of tokenizer.json.

    Args:
        folder: the checkpoint, or its small files.
        trust_remote_code: run code that comes with it.

    Raises:
        InputError: when transformers cannot read it.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder,
            trust_remote_code=trust_remote_code,
            # vLLM takes Mistral's library for a folder with consolidated weights only, which no checkpoint here has.
            mistral_format=False,
            # Prompts beyond the context are cut and counted elsewhere: no limit, and no warning, by the tokenizer.
            model_max_length=sys.maxsize,
        )
        # Of files that it does not know, transformers makes one without words.
        if not tokenizer("a", add_special_tokens=False).input_ids:
            raise ValueError("of its files transformers makes one without words")
        return tokenizer
    # Whatever a converter, or code of the checkpoint's own, fails with.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{folder} has no tokenizer that transformers can read ({reason[:200]}).",
            "Put a tokenizer.json beside the weights, or the tokenizer's files of the model that it was made of.",
        ) from error
