"""The pass itself: conversations become token sequences, the BF16 model runs them, observers watch.

Sequences run one at a time and unpadded, so padding enters no statistic.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from pipeline.calibrate import RANGES, TOKENS
from pipeline.config import CalibrationSettings
from pipeline.datasets import Conversation, local_file, read_conversations
from pipeline.errors import InputError
from pipeline.workspace import Draft

if TYPE_CHECKING:
    import torch

    from pipeline.job import Job

LM_HEAD = "lm_head"


def calibrate(job: Job, draft: Draft) -> None:
    """Samples, tokenizes, forwards and writes `tokens.safetensors` and `ranges.safetensors`."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    from pipeline.calibrate.observers import MinMaxObserver
    from pipeline.loading import load_model

    settings = job.settings.calibration
    path = local_file(settings.dataset, "calibration.dataset")
    conversations = sample(read_conversations(path), settings)
    tokenizer = AutoTokenizer.from_pretrained(job.model.folder, trust_remote_code=job.settings.model.trust_remote_code)
    sequences = [encode(tokenizer, conversation, settings.max_seq_length) for conversation in conversations]
    job.progress.detail("loading the model")
    model = load_model(job)
    observers: dict[str, MinMaxObserver] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != LM_HEAD:
            observers[name] = MinMaxObserver()
            module.register_forward_pre_hook(observers[name].hook)
    with torch.inference_mode():
        for index, sequence in enumerate(sequences):
            job.progress.detail(f"{index}/{len(sequences)} conversations")
            model(torch.tensor([sequence], device=model.device), use_cache=False)
            _check_finite(observers, index)
    lengths = [len(sequence) for sequence in sequences]
    save_file(
        {
            "input_ids": torch.tensor([token for sequence in sequences for token in sequence], dtype=torch.int32),
            "lengths": torch.tensor(lengths, dtype=torch.int32),
        },
        draft.folder / TOKENS,
    )
    ranges = {name: observer.range() for name, observer in observers.items()}
    save_file({name: value.contiguous() for name, value in ranges.items()}, draft.folder / RANGES)
    draft.results = {
        "conversations": len(sequences),
        "tokens": sum(lengths),
        "longest": max(lengths),
        "dtype": str(model.dtype).removeprefix("torch."),
        "largest": _largest(ranges),
    }


def sample(conversations: list[Conversation], settings: CalibrationSettings) -> list[Conversation]:
    """`num_samples` different conversations, drawn by the seed.

    Raises:
        InputError: when there are fewer.
    """
    unique = list({str(conversation): conversation for conversation in conversations}.values())
    if len(unique) < settings.num_samples:
        raise InputError(
            f"calibration.num_samples={settings.num_samples}: the data set has {len(unique)} different conversations.",
            f"Set calibration.num_samples={len(unique)} or fewer, or name a larger set.",
        )
    return random.Random(settings.seed).sample(unique, settings.num_samples)


def encode(tokenizer: Any, conversation: Conversation, max_length: int) -> list[int]:
    """Token ids of a conversation under the model's chat template, cut at `max_length`.

    Raises:
        InputError: when the template fails on it.
    """
    try:
        text = tokenizer.apply_chat_template(conversation, tokenize=False)
    except Exception as error:
        raise InputError(
            f"The model's chat template fails on a conversation of {len(conversation)} turns: {error}.",
            "Give the tokenizer a chat_template.jinja that accepts it, or other conversations.",
        ) from None
    return list(tokenizer(text, add_special_tokens=False)["input_ids"][:max_length])


def read_tokens(folder: Any) -> list[torch.Tensor]:
    """The sequences of a calibration artifact, each of shape (1, length)."""
    from safetensors.torch import load_file

    tensors = load_file(folder / TOKENS)
    return [part.long()[None] for part in tensors["input_ids"].split(tensors["lengths"].tolist())]


def _check_finite(observers: dict[str, Any], index: int) -> None:
    for name, observer in observers.items():
        if not observer.is_finite():
            raise InputError(
                f"NaN or Inf enters {name} on conversation {index}.",
                "The checkpoint is damaged, or its dtype overflows: try another, or leave that conversation out.",
            )


def _largest(ranges: dict[str, torch.Tensor], count: int = 5) -> list[dict[str, Any]]:
    order = sorted(ranges, key=lambda name: -float(ranges[name].abs().max()))
    return [{"module": name, "min": float(ranges[name][0]), "max": float(ranges[name][1])} for name in order[:count]]
