"""Next-token log-probabilities of held-out text from the served checkpoint; `compare.divergence` evaluates them.

A request generates one token after each text, and returns for every token of the prompt its log-probability and
the likeliest tokens in its place. Prompts travel as token ids, so that every variant of a
model is asked about the same tokens.

Of a conversation the replies count, with the token that ends each. A chat model learned to write those and nothing
else: what it expects of a question or of the template's own marks is arbitrary, and so is what quantizing does to it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import DivergenceSettings
from pipeline.errors import InputError, ServerError
from pipeline.results.eval import DivergenceResult
from pipeline.stages.eval.endpoint import Completion, Endpoint, of_tokens
from pipeline.tasks.chat_templates import ChatTemplate, TemplateRefusal
from pipeline.tasks.conversation_rows import Conversation
from pipeline.tasks.conversations import local_file, read_conversations

if TYPE_CHECKING:
    import numpy as np

FILE = "divergence.npz"
FILE_AGAIN = "divergence_again.npz"
SETTING = "eval.divergence.dataset"
Tokens = list[int]
# Log-probability of each token, the likeliest ids in its place, and their log-probabilities.
Reported = tuple[list[float], list[Tokens], list[list[float]]]


@dataclass(frozen=True)
class Text:
    """A text as token ids, and the positions of those that count, in order."""

    tokens: tuple[int, ...]
    counted: tuple[int, ...]

    def cut(self, length: int) -> Text:
        """Cut to at most `length` tokens, and after the last counted one."""
        # The first token of a text has no probability.
        counted = tuple(position for position in self.counted if 0 < position < length)
        return Text(self.tokens[: counted[-1] + 1] if counted else (), counted)


def read_texts(settings: DivergenceSettings, tokenizer: Any) -> list[Text]:
    """Draw `num_sequences` different conversations with counted tokens, by the seed.

    Raises:
        InputError: when the file cannot be read or has too few conversations.
    """
    conversations = read_conversations(local_file(settings.dataset, SETTING))
    template = ChatTemplate(tokenizer)
    found: dict[Text, None] = {}
    refused: list[str] = []
    for index in random.Random(settings.seed).sample(range(len(conversations)), len(conversations)):
        try:
            text = encode(template, conversations[index]).cut(settings.max_seq_length)
        except TemplateRefusal as error:
            refused.append(error.problem)
            continue
        if text.counted:
            found[text] = None
        if len(found) == settings.num_sequences:
            return list(found)
    others = f" ({len(refused)} refused: {refused[-1].removesuffix('.')})" if refused else ""
    fewer = f"Set eval.divergence.num_sequences={len(found)} or fewer, name" if found else "Name"
    raise InputError(
        f"eval.divergence.num_sequences={settings.num_sequences}: the data set has {len(found)} different "
        f"conversations with a reply within {settings.max_seq_length} tokens{others}.",
        f"{fewer} a larger set, or set eval.divergence=null.",
    )


def measure(
    texts: Sequence[Text],
    top_k: int,
    endpoint: Endpoint,
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    twice: bool = False,
) -> DivergenceResult:
    """Query every text and write `divergence.npz`; return the figures for the manifest.

    With `twice`, second answers are kept as well: other batches may round sums differently.
    The arrays depend on the answers alone, in the order of the texts: `sequence`, `position`, `token` and its
    `logprob`, and `top_ids` with their `top_logprobs`, likeliest first.

    Raises:
        InputError: when nothing that counts fits into the context.
        ServerError: when the server ends, refuses a request, or does not report on its prompts.
    """
    import numpy as np

    started = time.monotonic()
    # One token is asked for, so one place of the context stays free.
    asked = [text for text in (whole.cut(endpoint.context - 1) for whole in texts) if text.counted]
    if not asked:
        raise InputError(
            f"{SETTING}: no reply begins within the context of {endpoint.context} tokens.",
            "Raise serve.max_model_len, or set eval.divergence=null.",
        )
    arrays = collect(asked, top_k, endpoint, progress)
    np.savez_compressed(folder / FILE, **arrays)  # type: ignore[arg-type]
    if twice:
        np.savez_compressed(folder / FILE_AGAIN, **collect(asked, top_k, endpoint, progress))  # type: ignore[arg-type]
    return DivergenceResult(
        file=FILE,
        file_again=FILE_AGAIN if twice else None,
        sequences=len(asked),
        tokens=len(arrays["token"]),
        top_k=top_k,
        perplexity=float(np.exp(-arrays["logprob"].mean(dtype=np.float64))),
        seconds=round(time.monotonic() - started, 3),
    )


def collect(
    texts: Sequence[Text],
    top_k: int,
    endpoint: Endpoint,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the server's log-probabilities of counted tokens, as arrays with a row per token."""
    import numpy as np

    asked = {"max_tokens": 1, "temperature": 0, "prompt_logprobs": top_k}
    in_tokens = endpoint.takes_tokens
    bodies = (of_tokens(text.tokens, **asked) if in_tokens else {"prompt": text.tokens, **asked} for text in texts)
    parts: list[Reported] = [([], [], [])] * len(texts)
    done = 0

    def read(index: int, choice: Completion) -> Reported:
        return _read(texts[index], choice.get("prompt_logprobs"), top_k)

    def arrived(index: int, reported: Reported) -> None:
        nonlocal done
        parts[index] = reported
        done += 1
        progress(done, len(texts))

    endpoint.complete(bodies, read, arrived)
    return {
        "sequence": np.repeat(np.arange(len(texts), dtype=np.int32), [len(text.counted) for text in texts]),
        "position": np.array([place for text in texts for place in text.counted], dtype=np.int32),
        "token": np.array([text.tokens[place] for text in texts for place in text.counted], dtype=np.int32),
        "logprob": np.concatenate([np.array(part[0], dtype=np.float32) for part in parts]),
        "top_ids": np.concatenate([np.array(part[1], dtype=np.int32) for part in parts]),
        "top_logprobs": np.concatenate([np.array(part[2], dtype=np.float32) for part in parts]),
    }


def _read(text: Text, reported: Any, top_k: int) -> Reported:
    """Return each counted token's log-probability, and the `top_k` likeliest tokens in its place."""
    logprobs, ids, values = [], [], []
    try:
        if len(reported) != len(text.tokens):
            raise ValueError(f"{len(reported)} positions for {len(text.tokens)} tokens")
        for position in text.counted:
            token = text.tokens[position]
            found = {int(name): float(item["logprob"]) for name, item in reported[position].items()}
            logprobs.append(found[token])
            # The prompt's own token comes on top of the likeliest where it is none of them.
            if len(found) > top_k:
                del found[token]
            best = sorted(found.items(), key=lambda item: (-item[1], item[0]))
            if len(best) != top_k:
                raise ValueError(f"{len(best)} log-probabilities instead of {top_k}")
            ids.append([name for name, _ in best])
            values.append([value for _, value in best])
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ServerError(
            f"The server does not report the log-probabilities of a prompt as vLLM does ({error!r}).",
            "Serve with the vLLM of the lock, or set eval.divergence=null.",
        ) from error
    return logprobs, ids, values


def encode(template: ChatTemplate, conversation: Conversation) -> Text:
    """Encode a conversation by the chat template, with its replies counted; all of it without template or reply.

    Raises:
        TemplateRefusal: when the template fails on it.
    """
    tokenizer = template.tokenizer
    replies = any(message["role"] == "assistant" for message in conversation)
    if not template.source:
        # A base model reads and writes plain text.
        tokens = tokenizer("\n\n".join(message["content"] for message in conversation)).input_ids
        return Text(tuple(tokens), tuple(range(len(tokens))))
    conversation = template.fitted(conversation)
    whole = template.render(conversation)
    has_offsets = replies and getattr(tokenizer, "is_fast", False)
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=has_offsets)
    tokens = encoded.input_ids
    if not replies:
        return Text(tuple(tokens), tuple(range(len(tokens))))
    spans = list(_replies(template, conversation, whole))
    if has_offsets:
        # The token right behind a reply ends it, and it is the model that writes it.
        ends = {end for _, end in spans}
        starts = enumerate(start for start, _ in encoded.offset_mapping)
        counted = [i for i, start in starts if start in ends or any(begin <= start < end for begin, end in spans)]
    else:
        counted = sorted({i for span in spans for i in _within(tokenizer, whole, tokens, span)})
    return Text(tuple(tokens), tuple(counted))


def _within(tokenizer: Any, whole: str, tokens: Tokens, span: tuple[int, int]) -> range:
    """Return the positions of a reply's tokens and of the one behind it, by a tokenizer that reports no offsets.

    The text up to a place has the tokens of the whole text, but for the last ones if one goes beyond that place.
    """

    def before(place: int) -> tuple[int, bool]:
        part = tokenizer(whole[:place], add_special_tokens=False).input_ids
        same = next((i for i, pair in enumerate(zip(part, tokens, strict=False)) if pair[0] != pair[1]), len(part))
        return same, same == len(part)

    (first, is_whole), (last, _) = before(span[0]), before(span[1])
    # A token that begins in front of the reply is not the reply's.
    return range(first if is_whole else first + 1, min(last + 1, len(tokens)))


def _replies(template: ChatTemplate, conversation: Conversation, whole: str) -> Iterator[tuple[int, int]]:
    """Return start and end of each reply in the rendered conversation."""
    cursor = 0
    for index, message in enumerate(conversation):
        if message["role"] == "assistant":
            before = template.render(conversation[:index], add_generation_prompt=True) if index else ""
            # Some templates write earlier turns otherwise than the last one.
            cursor = len(before) if whole.startswith(before) else cursor
        # Some templates strip what they are given.
        content = message["content"]
        if (start := whole.find(content, cursor)) < 0:
            content = content.strip()
            if (start := whole.find(content, cursor)) < 0:
                continue
        cursor = start + len(content)
        if message["role"] == "assistant":
            yield start, cursor
