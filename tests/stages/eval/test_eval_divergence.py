"""The log-probabilities of held-out text: what is asked, what is kept and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support import tiny_tokenizers
from support.completions_server import VOCABULARY, CompletionsServer, logprobs_after

from pipeline.artifacts.keys import Digests
from pipeline.config import DivergenceSettings, Settings
from pipeline.demo import CALIBRATION, CHECKPOINT
from pipeline.errors import InputError, ServerError
from pipeline.models.tokenizer import load_tokenizer
from pipeline.results.records import Logprobs
from pipeline.stages import eval as stage
from pipeline.stages.eval.divergence import FILE, Text, collect, encode, measure, read_texts
from pipeline.stages.eval.endpoint import Endpoint
from pipeline.tasks.chat_templates import ChatTemplate
from pipeline.tasks.conversations import read_conversations

CHATML = (
    "{% for m in messages %}<|im_end|>{{ m['role'] }}: {{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_end|>assistant: {% endif %}"
)
# Qwen3's habit: what an assistant thought is shown in its last turn alone.
THOUGHT = "{% if loop.last and m['role'] == 'assistant' %}(thinks) {% endif %}"
THINKING = CHATML.replace("{{ m['content'] }}", f"{THOUGHT}{{{{ m['content'] | trim }}}}")


@pytest.fixture
def chat(tokenizer: Any) -> Any:
    """The tiny tokenizer with a chat template."""
    from copy import deepcopy

    found = deepcopy(tokenizer)
    found.chat_template = CHATML
    return found


def conversation(*turns: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


def dataset(path: Path, *conversations: list[dict[str, str]]) -> Path:
    path.write_text(json.dumps([{"messages": each} for each in conversations]))
    return path


def asked(path: Path, **changes: Any) -> DivergenceSettings:
    return DivergenceSettings.model_validate(
        {"dataset": {"path": path}, "num_sequences": 2, "max_seq_length": 64, "top_k": 5, **changes}
    )


@pytest.fixture
def endpoint(server: CompletionsServer) -> Callable[[int], Endpoint]:
    return lambda concurrent: Endpoint(server.url, "model", concurrent, lambda: None)


def texts(count: int = 9) -> list[Text]:
    random = np.random.default_rng(1)
    lengths = [int(n) for n in random.integers(3, 20, count)]
    return [Text(tuple(random.integers(0, VOCABULARY, n).tolist()), tuple(range(1, n))) for n in lengths]


def counted(tokenizer: Any, text: Text) -> str:
    return str(tokenizer.decode([text.tokens[position] for position in text.counted]))


def test_every_row_is_what_the_model_says(endpoint: Callable[[int], Endpoint]) -> None:
    sent = texts()
    arrays = collect(sent, 5, endpoint(4))
    assert arrays["logprob"].dtype == arrays["top_logprobs"].dtype == np.float32
    rows = [(i, position) for i, text in enumerate(sent) for position in text.counted]
    assert list(zip(arrays["sequence"].tolist(), arrays["position"].tolist(), strict=True)) == rows
    outside = 0
    for row, (i, position) in enumerate(rows):
        values = logprobs_after(sent[i].tokens[:position])
        token = sent[i].tokens[position]
        best = sorted(values, reverse=True)[:5]
        assert arrays["token"][row] == token
        assert arrays["logprob"][row] == pytest.approx(values[token])
        assert arrays["top_logprobs"][row].tolist() == pytest.approx(best)
        assert [values[t] for t in arrays["top_ids"][row]] == pytest.approx(best)
        outside += token not in arrays["top_ids"][row]
    assert outside > 0
    Logprobs(**arrays)


def test_the_file_depends_on_the_answers_alone(endpoint: Callable[[int], Endpoint], tmp_path: Path) -> None:
    files = []
    for concurrent in (1, 7):
        folder = tmp_path / str(concurrent)
        folder.mkdir()
        facts = measure(texts(), 5, endpoint(concurrent), folder, twice=True)
        files += [(folder / str(getattr(facts, name))).read_bytes() for name in ("file", "file_again")]
    assert len(set(files)) == 1
    with np.load(tmp_path / "1" / FILE, allow_pickle=False) as arrays:
        assert facts.tokens == len(arrays["token"]) and facts.sequences == 9 and facts.top_k == 5
        assert facts.perplexity == pytest.approx(np.exp(-arrays["logprob"].mean()))


def test_what_does_not_fit_into_the_context_is_cut(
    server: CompletionsServer, endpoint: Callable[[int], Endpoint], tmp_path: Path
) -> None:
    server.context = 8
    long, early = Text(tuple(range(20)), tuple(range(1, 20))), Text(tuple(range(20)), (2, 15))
    facts = measure([long, early, Text(tuple(range(20)), (15,))], 5, endpoint(2), tmp_path)
    assert facts.tokens == 6 + 1 and facts.sequences == 2
    assert {len(request["prompt"]) for request in server.requests} == {7, 3}
    with pytest.raises(InputError, match="no reply begins within the context of 8"):
        measure([Text(tuple(range(20)), (15,))], 5, endpoint(2), tmp_path)


@pytest.mark.parametrize("template", [CHATML, THINKING])
def test_replies_count_with_the_token_that_ends_them(chat: Any, template: str) -> None:
    chat.chat_template = template
    found = encode(ChatTemplate(chat), conversation("a or b?", "a", "and now a long one?", "so be it\nas it was"))
    assert counted(chat, found) == "a<|im_end|>so be it\nas it was<|im_end|>"
    # What is not counted at the end need not be read.
    cut = found.cut(1000)
    assert cut.tokens[-1] == chat.convert_tokens_to_ids("<|im_end|>") and len(cut.tokens) == len(found.tokens) - 1


def test_a_template_may_strip_a_reply(chat: Any) -> None:
    chat.chat_template = THINKING
    assert counted(chat, encode(ChatTemplate(chat), conversation("hm?", "  yes \n"))) == "yes<|im_end|>"
    chat.chat_template = CHATML
    assert counted(chat, encode(ChatTemplate(chat), conversation("hm?", "  yes \n"))) == "  yes \n<|im_end|>"


def test_without_a_reply_or_a_template_all_of_a_text_counts(chat: Any, tokenizer: Any) -> None:
    found = encode(ChatTemplate(chat), conversation("only this"))
    assert len(found.counted) == len(found.tokens) and found.cut(99).counted[0] == 1
    plain = encode(ChatTemplate(tokenizer), conversation("one", "two"))
    assert tokenizer.decode(plain.tokens) == "one\n\ntwo" and len(plain.counted) == len(plain.tokens)


def test_different_conversations_are_drawn_by_the_seed(chat: Any, tmp_path: Path) -> None:
    kept = [conversation(f"say {i}", f"number {i}") for i in range(20)]
    late = conversation("x" * 70, "too late")
    path = dataset(tmp_path / "set.json", *kept, *kept, late)
    first, again = (read_texts(asked(path, num_sequences=12), chat) for _ in range(2))
    assert first == again and len(set(first)) == 12
    assert read_texts(asked(path, num_sequences=12, seed=1), chat) != first
    assert {counted(chat, text) for text in read_texts(asked(path, num_sequences=20), chat)} == {
        f"number {i}<|im_end|>" for i in range(20)
    }
    with pytest.raises(InputError, match=r"num_sequences=21: the data set has 20 different conversations with a reply"):
        read_texts(asked(path, num_sequences=21), chat)


def test_what_the_template_refuses_is_passed_over_and_an_error_only_where_too_few_remain(
    chat: Any, tmp_path: Path
) -> None:
    chat.chat_template = "{% if messages | length > 2 %}{{ raise_exception('too many') }}{% endif %}" + CHATML
    path = dataset(
        tmp_path / "set.json", conversation("a", "b"), conversation("a", "b", "c", "d"), conversation("e", "f")
    )
    assert len(read_texts(asked(path), chat)) == 2
    with pytest.raises(InputError, match=r"2 different .* \(1 refused: .*chat template fails.*too many\)") as caught:
        read_texts(asked(path, num_sequences=3), chat)
    assert "eval.divergence=null" in caught.value.remedy


def test_a_system_turn_that_the_template_refuses_is_asked_within_the_question(chat: Any) -> None:
    chat.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHATML
    found = encode(ChatTemplate(chat), [{"role": "system", "content": "be brief"}, *conversation("hm?", "yes")])
    assert counted(chat, found) == "yes<|im_end|>"
    assert "be brief\n\nhm?" in chat.decode(found.tokens)


def test_a_server_that_does_not_report_is_named(
    server: CompletionsServer, endpoint: Callable[[int], Endpoint], tmp_path: Path
) -> None:
    server.knows_prompt_logprobs = False
    with pytest.raises(ServerError, match="does not report the log-probabilities of a prompt"):
        measure(texts(), 5, endpoint(2), tmp_path)
    assert not list(tmp_path.iterdir())


def identity(settings: Settings, tmp_path: Path) -> dict[str, Any]:
    job: Any = SimpleNamespace(
        settings=settings,
        part="",
        model=SimpleNamespace(shape_folder=CHECKPOINT),
        artifact=lambda stage: SimpleNamespace(key="k"),
        serving=SimpleNamespace(identity=lambda settings: {}),
        digests=Digests(tmp_path / "digests.json"),
    )
    return stage.identity(job)


def test_the_key_follows_the_text_and_not_its_path(settings: Callable[..., Settings], tmp_path: Path) -> None:
    one, other = (dataset(tmp_path / name, conversation("a", "b")) for name in ("one.json", "other.json"))
    third = dataset(tmp_path / "third.json", conversation("a", "c"))

    def key(*overrides: str) -> str:
        return json.dumps(identity(settings(*overrides), tmp_path))

    first = key(f"eval.divergence.dataset.path={one}")
    assert first == key(f"eval.divergence.dataset.path={other}") and str(tmp_path) not in first
    assert first != key(f"eval.divergence.dataset.path={third}")
    assert first != key(f"eval.divergence.dataset.path={one}", "eval.divergence.top_k=10")
    assert identity(settings("eval.divergence=null"), tmp_path)["divergence"] is None


def test_the_demo_is_asked_about_conversations_that_it_was_not_calibrated_with(
    settings: Callable[..., Settings],
) -> None:
    given = settings()
    assert given.eval.divergence is not None
    used, held_out = (
        {json.dumps(each) for each in read_conversations(Path(str(found.dataset.path)))}
        for found in (given.calibration, given.eval.divergence)
    )
    assert used and held_out and not used & held_out


def test_the_study_is_asked_with_another_seed_than_it_is_calibrated_with(settings: Callable[..., Settings]) -> None:
    given = settings("model=qwen3_8b")
    assert given.eval.divergence is not None
    assert given.eval.divergence.seed != given.calibration.seed


def test_the_replies_of_the_demo_are_found() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    for each in read_conversations(CALIBRATION)[:50]:
        replies = [f"{turn['content']}<|im_end|>" for turn in each if turn["role"] == "assistant"]
        assert counted(tokenizer, encode(ChatTemplate(tokenizer), each)) == "".join(replies)


class WithoutOffsets:
    """A tokenizer as those written in Python are: it cannot say where in the text a token begins."""

    is_fast = False

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, text: str, *, return_offsets_mapping: bool = False, **options: Any) -> Any:
        if return_offsets_mapping:
            raise NotImplementedError("return_offset_mapping is not available when using Python tokenizers.")
        return self._tokenizer(text, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def test_replies_are_found_without_offsets_as_they_are_with_them(chat: Any) -> None:
    from transformers import AutoTokenizer

    demo = AutoTokenizer.from_pretrained(CHECKPOINT)
    for each in read_conversations(CALIBRATION)[:60]:
        assert encode(ChatTemplate(WithoutOffsets(demo)), each) == encode(ChatTemplate(demo), each)
    for template in (CHATML, THINKING):
        chat.chat_template = template
        talk = conversation("a or b?", " a \n", "and now a long one?", "so be it\nas it was")
        assert encode(ChatTemplate(WithoutOffsets(chat)), talk) == encode(ChatTemplate(chat), talk)


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        # The tokens of `[c` and `d]` go beyond the reply on either side; the first is not counted.
        (["cd"], "d]"),
        # Where the reply alone ends in another token than in the text.
        (["x", "ab"], "x]ab]"),
    ],
)
def test_a_token_across_the_beginning_of_a_reply_is_not_the_replys(replies: list[str], expected: str) -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    letters = list("[]abcdxu")
    merges = [("[", "c"), ("d", "]"), ("b", "]")]
    words = {word: i for i, word in enumerate([*letters, *("".join(pair) for pair in merges)])}
    backend = Tokenizer(models.BPE(words, merges))
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    talk = conversation(*(turn for reply in replies for turn in ("u", reply)))
    for each in (tokenizer, WithoutOffsets(tokenizer)):
        assert counted(tokenizer, encode(ChatTemplate(each), talk)) == expected


@pytest.mark.parametrize("write", [tiny_tokenizers.with_code, tiny_tokenizers.sentencepiece, tiny_tokenizers.tiktoken])
def test_replies_count_in_tokenizers_of_other_libraries(write: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    write(tmp_path)
    tokenizer = load_tokenizer(tmp_path, trust_remote_code=True)
    if write is tiny_tokenizers.tiktoken:
        tokenizer.add_special_tokens({"additional_special_tokens": list(tiny_tokenizers.MARKS)})
    tokenizer.chat_template = tiny_tokenizers.TEMPLATE
    talk = conversation("What rises?", "The river rises.", "九点", "图书馆每天早上九点开门。")
    text = encode(ChatTemplate(tokenizer), talk)
    assert counted(tokenizer, text).replace(" <|end|>", "<|end|>").strip() == (
        "The river rises.<|end|>图书馆每天早上九点开门。<|end|>"
    )


def test_penalties_that_earlier_releases_left_greedy_requests_are_in_the_key(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = identity(settings(), tmp_path)
    for named, differs in (({"top_k": 20, "repetition_penalty": 1.05}, False), ({"presence_penalty": 1.5}, True)):
        monkeypatch.setattr(stage.generation, "named", lambda folder, named=named: named)
        assert (identity(settings(), tmp_path) != before) == differs
