"""Tiny tokenizers in the files of each library, made by it where it can: SentencePiece, tiktoken, Mistral's tekken."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

TEXT = (
    "The river rises in the mountains and crosses a plain.",
    "图书馆每天早上九点开门，晚上八点关门。",
    "def count(words):\n    return len(words)\n",
    "8:15 to 10:45 are 150 minutes. How long does it move?",
)
MARKS = ("<|user|>", "<|assistant|>", "<|end|>")
CHAT = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
TEMPLATE = f"{CHAT}{{% if add_generation_prompt %}}<|assistant|>{{% endif %}}"
MERGES = (b"th", b"the", b" t", b" th", b" the", b"er", b"an", b"and", b"ing")
# Code of a tokenizer's own, as early Qwen and Kimi models have it: tiktoken, without offsets.
CODE = """
from pathlib import Path

import tiktoken
from tiktoken.load import load_tiktoken_bpe
from transformers import PreTrainedTokenizer

MARKS = ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>")


class MineTokenizer(PreTrainedTokenizer):
    vocab_files_names = {"vocab_file": "mine.tiktoken"}

    def __init__(self, vocab_file, **options):
        ranks = load_tiktoken_bpe(vocab_file)
        marks = {mark: len(ranks) + place for place, mark in enumerate(MARKS)}
        self.bpe = tiktoken.Encoding("mine", pat_str=r"\\s?\\S+|\\s", mergeable_ranks=ranks, special_tokens=marks)
        super().__init__(eos_token="<|endoftext|>", **options)

    @property
    def vocab_size(self):
        return self.bpe.n_vocab

    def get_vocab(self):
        return {str(self.bpe.decode_single_token_bytes(i)): i for i in range(self.bpe.n_vocab)}

    def tokenize(self, text, **_):
        return self.bpe.encode(text, allowed_special="all")

    def _convert_token_to_id(self, token):
        return token if isinstance(token, int) else self.bpe.encode_single_token(token)

    def _convert_id_to_token(self, index):
        return index

    def convert_tokens_to_ids(self, tokens):
        if isinstance(tokens, (list, tuple)):
            return [self._convert_token_to_id(token) for token in tokens]
        return self._convert_token_to_id(tokens)

    def _decode(self, token_ids, **_):
        return self.bpe.decode([token_ids] if isinstance(token_ids, int) else list(token_ids))
"""


def sentencepiece(folder: Path, kind: str = "bpe", name: str = "tokenizer.model") -> None:
    """Train a model of SentencePiece's; `kind` is bpe or unigram."""
    from sentencepiece import SentencePieceTrainer

    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 20),
        model_writer=written,
        vocab_size=400,
        model_type=kind,
        byte_fallback=True,
        hard_vocab_limit=False,
        user_defined_symbols=list(MARKS),
        # As Llama has it.
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (folder / name).write_bytes(written.getvalue())


def tiktoken(folder: Path, name: str = "tiktoken.model") -> None:
    """Write tiktoken's file of ranks: every byte, and a few merges."""
    pieces = [*(bytes([byte]) for byte in range(256)), *MERGES]
    lines = (f"{base64.b64encode(piece).decode()} {rank}\n" for rank, piece in enumerate(pieces))
    (folder / name).write_text("".join(lines))


def with_code(folder: Path) -> None:
    """Write a tokenizer that only code of its own reads."""
    tiktoken(folder, "mine.tiktoken")
    (folder / "tokenization_mine.py").write_text(CODE)
    code = {"AutoTokenizer": ["tokenization_mine.MineTokenizer", None]}
    config = {"auto_map": code, "tokenizer_class": "MineTokenizer", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def tekken(folder: Path) -> None:
    """Write Mistral's file: the same ranks behind its special tokens."""
    pieces = [*(bytes([byte]) for byte in range(256)), *MERGES]
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"]
    special += ["[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]"]
    special += ["[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"]
    content = {
        "config": {
            "pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+",
            "num_vocab_tokens": len(pieces),
            "default_vocab_size": len(pieces) + len(special),
            "default_num_special_tokens": len(special),
            "version": "v7",
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(piece).decode(), "token_str": None}
            for rank, piece in enumerate(pieces)
        ],
        "special_tokens": [
            {"rank": rank, "token_str": token, "is_control": True} for rank, token in enumerate(special)
        ],
    }
    (folder / "tekken.json").write_text(json.dumps(content))
