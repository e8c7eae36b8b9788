"""Prompts are counted before a server starts, and written anew only where vLLM's client could not read them."""

import copy
import itertools
import json
from pathlib import Path

import pytest
from support import custom_code

from pipeline.demo import BENCHMARK, CHECKPOINT
from pipeline.errors import InputError
from pipeline.stages.bench import prompts
from pipeline.stages.bench.prompts import TEMPLATE_TOKENS, check_conversations, check_lengths, prepare
from pipeline.stages.bench.protocol import CheckpointTokenizer

# Each prompt is another one.
NUMBERS = itertools.count()


class Words:
    """A token a word."""

    def encode(self, text: str) -> list[int]:
        return list(range(len(text.split())))


def turns(prompt_words: int, answer_words: int | None) -> dict:
    asked = f"{next(NUMBERS)} " + "why " * (prompt_words - 1)
    conversation = [{"from": "human", "value": asked}]
    if answer_words is not None:
        conversation.append({"from": "gpt", "value": "so " * answer_words})
    return {"conversations": conversation}


def written(folder: Path, rows: list, name: str = "set.json") -> Path:
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)) if name.endswith("jsonl") else json.dumps(rows))
    return path


def test_the_studys_own_format_is_sent_as_it_is(settings, tmp_path: Path) -> None:
    bench = settings("bench.num_prompts=2", "bench.warmup_prompts=1").bench
    source = written(tmp_path, [turns(9, 9), turns(9, 9), turns(2, 1), turns(9, None)])
    assert prepare(bench, source, tmp_path, Words(), 40_960) == source


@pytest.mark.parametrize("name", ["set.jsonl", "openai.json"])
def test_other_formats_are_written_anew(settings, tmp_path: Path, name: str) -> None:
    bench = settings("bench.num_prompts=2", "bench.warmup_prompts=1").bench
    rows = [turns(9, 8) for _ in range(3)]
    if name == "openai.json":
        reply = {"role": "assistant", "content": "e f g h"}
        rows = [{"messages": [{"role": "user", "content": f"a b c {number}"}, reply]} for number in range(3)]
    made = prepare(bench, written(tmp_path, rows, name), tmp_path, Words(), 40_960)
    assert made == tmp_path / "prompts.json"
    content = json.loads(made.read_text())
    assert len(content) == 3
    assert all([turn["from"] for turn in row["conversations"]] == ["human", "gpt"] for row in content)


@pytest.mark.parametrize(
    "before",
    [[("system", "Answer in French.")], [("gpt", "so so so so so")], [("system", "Be brief."), ("gpt", "so " * 9)]],
    ids=["system", "reply", "both"],
)
def test_what_stands_before_the_first_question_is_not_sent_as_one(
    settings, tmp_path: Path, before: list[tuple[str, str]]
) -> None:
    bench = settings("bench.num_prompts=2", "bench.warmup_prompts=1").bench
    rows = [turns(9, 8) for _ in range(3)]
    wanted = copy.deepcopy(rows)
    rows[0]["conversations"][:0] = [{"from": name, "value": text} for name, text in before]
    made = prepare(bench, written(tmp_path, rows), tmp_path, Words(), None)
    assert json.loads(made.read_text()) == wanted


@pytest.mark.parametrize("form", ["lines", "bom", "wrapped", "roles"])
def test_a_file_that_the_client_cannot_read_is_written_anew(settings, tmp_path: Path, form: str) -> None:
    bench = settings("bench.num_prompts=2", "bench.warmup_prompts=1").bench
    rows = [turns(9, 8) for _ in range(3)]
    roles = [
        {"conversations": [{"role": turn["from"], "content": turn["value"]} for turn in row["conversations"]]}
        for row in rows
    ]
    content = {
        "lines": "\n".join(map(json.dumps, rows)),
        "bom": "\ufeff" + json.dumps(rows),
        "wrapped": json.dumps({"data": rows}),
        "roles": json.dumps(roles),
    }[form]
    source = tmp_path / "set.json"
    source.write_text(content, encoding="utf-8")
    made = prepare(bench, source, tmp_path, Words(), None)
    assert made != source and json.loads(made.read_text()) == rows


def test_a_set_without_a_usable_conversation_is_refused(settings, tmp_path: Path) -> None:
    source = written(tmp_path, [turns(9, None), {"conversations": []}, {"nothing": 1}])
    with pytest.raises(InputError) as refused:
        prepare(settings().bench, source, tmp_path, Words(), None)
    assert "none of 3 rows is a conversation with a question and an answer" in str(refused.value)
    assert "bench.output_len" in str(refused.value)


def test_more_prompts_than_there_are_is_refused_with_their_number(settings, tmp_path: Path) -> None:
    source = written(
        tmp_path, [turns(9, 9) for _ in range(5)] + [turns(1025, 9), turns(9, 3), turns(3, 9), turns(1000, 1049)]
    )
    with pytest.raises(InputError) as refused:
        prepare(settings("bench.num_prompts=6", "bench.warmup_prompts=2").bench, source, tmp_path, Words(), None)
    assert "bench.num_prompts=6: set.json has 5 different prompts" in str(refused.value)
    # A prompt that is there twice counts once.
    same = written(tmp_path, [turns(9, 9)] * 9)
    with pytest.raises(InputError, match="has 1 different prompts"):
        prepare(settings("bench.num_prompts=2", "bench.warmup_prompts=1").bench, same, tmp_path, Words(), None)


def test_half_of_a_surrogate_pair_is_sent_as_a_replacement(settings, tmp_path: Path) -> None:
    rows = [turns(9, 9), turns(9, 9)]
    rows[0]["conversations"][0]["value"] += "\ud83d"
    bench = settings("bench.num_prompts=2", "bench.warmup_prompts=1").bench
    made = prepare(bench, written(tmp_path, rows), tmp_path, Words(), None)
    assert json.loads(made.read_text())[0]["conversations"][0]["value"].endswith("\ufffd")


def test_what_the_context_cannot_hold_is_not_sent(settings, tmp_path: Path) -> None:
    bench = settings("bench.num_prompts=2", "bench.warmup_prompts=1").bench
    source = written(tmp_path, [turns(100, 100), turns(9, 9), turns(9, 9)])
    made = prepare(bench, source, tmp_path, Words(), 100 + TEMPLATE_TOKENS)
    assert len(json.loads(made.read_text())) == 2
    with pytest.raises(InputError, match="raise the context"):
        prepare(bench, source, tmp_path, Words(), 10 + TEMPLATE_TOKENS)


def test_fixed_lengths_need_no_answers(settings, tmp_path: Path) -> None:
    bench = settings("bench.num_prompts=2", "bench.warmup_prompts=1", "bench.output_len=16").bench
    made = prepare(bench, written(tmp_path, [turns(9, None), turns(9, 3)]), tmp_path, Words(), None)
    assert [len(row["conversations"]) for row in json.loads(made.read_text())] == [2, 2]


def test_random_prompts_longer_than_the_context_are_refused(settings) -> None:
    bench = settings("bench=throughput", "bench.input_len=2000", "bench.output_len=49").bench
    check_lengths(bench, 2049)
    check_lengths(bench, None)
    with pytest.raises(InputError) as refused:
        check_lengths(bench, 2048)
    assert "bench.input_len=2000 and bench.output_len=49 do not fit into a context of 2048" in str(refused.value)
    chat = settings("bench=throughput", "bench.input_len=2000", "bench.output_len=40", "bench.endpoint=openai-chat")
    with pytest.raises(InputError, match="chat template"):
        check_lengths(chat.bench, 2049)


def test_the_demo_set_is_enough_for_every_repeat_of_its_protocol(settings, tmp_path: Path) -> None:
    assert prepare(settings().bench, BENCHMARK, tmp_path, Words(), 40_960) == BENCHMARK


def test_real_sets_are_usable(settings, tmp_path: Path, data_dir: Path) -> None:
    bench = settings("bench.num_prompts=150").bench
    for name in ("calibration/sharegpt_gpt4-qwen3_a22B_output.jsonl", "sharegpt/sharegpt_gpt4_256.jsonl"):
        assert prepare(bench, data_dir / name, tmp_path, Words(), None) == tmp_path / "prompts.json"
    unanswered = data_dir / "sharegpt" / "ShareGPT_V3_filtered_1000.json"
    with pytest.raises(InputError, match="question and an answer"):
        prepare(bench, unanswered, tmp_path, Words(), None)
    fixed = settings("bench.num_prompts=500", "bench.output_len=128").bench
    assert len(json.loads(prepare(fixed, unanswered, tmp_path, Words(), None).read_text())) >= 500


def test_tokens_are_counted_without_the_cutting_and_padding_of_the_tokenizers_file(tmp_path: Path) -> None:
    """vLLM's client sends and counts whole prompts."""
    content = json.loads((CHECKPOINT / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>",
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    for text in ("Hi", "How many apples are there if I have two and you have seven of them?"):
        assert CheckpointTokenizer(tmp_path).encode(text) == CheckpointTokenizer(CHECKPOINT).encode(text)


def test_a_tokenizer_of_the_checkpoints_own_code_is_read_where_it_is_trusted(tmp_path: Path) -> None:
    folder, text = custom_code.write(tmp_path / "mine"), "How many apples are there?"
    with custom_code.modules_in(tmp_path / "modules"):
        own = CheckpointTokenizer(folder, trust_remote_code=True)
    assert own.encode(text) == CheckpointTokenizer(CHECKPOINT).encode(text)


@pytest.mark.parametrize(
    ("prompt", "answer", "kept"),
    [
        *((3, 9, False), (4, 9, True), (9, 3, False), (9, 4, True)),
        *((1024, 1024, True), (1025, 4, False), (1024, 1025, False), (9, 2039, True), (9, 2040, False)),
    ],
)
def test_a_prompt_is_kept_from_4_to_1024_tokens_and_up_to_2048_in_all(
    settings, tmp_path: Path, prompt: int, answer: int, kept: bool
) -> None:
    source = written(tmp_path, [turns(prompt, answer)])
    bench = settings("bench.num_prompts=1", "bench.warmup_prompts=0").bench
    if kept:
        assert prepare(bench, source, tmp_path, Words(), None) == source
        return
    with pytest.raises(InputError, match=r"has 0 different prompts .*4 to 1024 tokens of prompt, 2048 with the reply"):
        prepare(bench, source, tmp_path, Words(), None)


@pytest.mark.parametrize(
    ("asked", "output_len", "kept"), [(4, 1, True), (3, 9, False), (1024, 1024, True), (1024, 1025, False)]
)
def test_a_fixed_length_counts_instead_of_the_answers(
    settings, tmp_path: Path, asked: int, output_len: int, kept: bool
) -> None:
    bench = settings("bench.num_prompts=1", "bench.warmup_prompts=0", f"bench.output_len={output_len}").bench
    source = written(tmp_path, [turns(asked, 9)])
    if kept:
        assert prepare(bench, source, tmp_path, Words(), None) == source
    else:
        with pytest.raises(InputError, match="has 0 different prompts"):
            prepare(bench, source, tmp_path, Words(), None)


def test_the_context_leaves_room_for_the_template(settings, tmp_path: Path) -> None:
    """Twelve words of question and answer, and 64 tokens of a template."""
    bench = settings("bench.num_prompts=1", "bench.warmup_prompts=0").bench
    source = written(tmp_path, [turns(8, 4), turns(900, 900)])
    made = prepare(bench, source, tmp_path, Words(), 76)
    assert len(json.loads(made.read_text())) == 1
    with pytest.raises(InputError, match=r"has 0 different prompts .*11 with the reply"):
        prepare(bench, source, tmp_path, Words(), 75)
    # A context that holds the longest that is sent changes nothing.
    assert prepare(bench, source, tmp_path, Words(), 2048 + 64) == source
    assert prepare(bench, source, tmp_path, Words(), 2048 + 63) != source


LADDER = "+bench.ladder={concurrency: [1, 8], min_prompts: 6, level_s: 1}"


@pytest.mark.parametrize(
    ("given", "most", "setting"),
    [
        (("bench.num_prompts=9", "bench.warmup_prompts=4"), 9, "bench.num_prompts"),
        (("bench.num_prompts=9", "bench.warmup_prompts=10"), 10, "bench.warmup_prompts"),
        (("bench.num_prompts=9", "bench.warmup_prompts=null"), 9, "bench.num_prompts"),
        (("bench.num_prompts=99", "bench.warmup_prompts=4", LADDER), 8, "bench.ladder.concurrency"),
        (("bench.num_prompts=99", "bench.warmup_prompts=7", LADDER.replace("8]", "5]")), 7, "bench.warmup_prompts"),
        (("bench.num_prompts=99", "bench.warmup_prompts=4", LADDER.replace("8]", "5]")), 6, "bench.ladder.min_prompts"),
        (("bench.num_prompts=9", "bench.slo.ttft_ms=5"), 200, "bench.slo.prompts"),
        (("bench.num_prompts=9", "bench.slo.ttft_ms=5", "bench.slo.probes=0"), 9, "bench.num_prompts"),
        (("bench.num_prompts=9", "bench.warmup_prompts=4", "bench.slo.probes=5"), 9, "bench.num_prompts"),
    ],
)
def test_the_largest_load_decides_how_many_prompts_are_needed(
    settings, tmp_path: Path, given: tuple[str, ...], most: int, setting: str
) -> None:
    bench = settings("bench.warmup_prompts=1", *given).bench
    source = written(tmp_path, [turns(9, 9) for _ in range(most)])
    assert prepare(bench, source, tmp_path, Words(), None) == source
    few = written(tmp_path, [turns(9, 9) for _ in range(most - 1)])
    with pytest.raises(InputError, match=f"^{setting}={most}: set.json has {most - 1} different prompts"):
        prepare(bench, few, tmp_path, Words(), None)


def test_a_small_file_is_counted_before_any_work(settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = written(tmp_path, [turns(9, 9) for _ in range(3)])
    given = (f"bench.dataset.path={source}", "bench.warmup_prompts=1")
    check_conversations(settings(*given, "bench.num_prompts=3").bench)
    few = settings(*given, "bench.num_prompts=4").bench
    with pytest.raises(InputError, match=rf"bench.num_prompts=4: {source} has 3 conversations that can be sent"):
        check_conversations(few)
    check_conversations(few.model_copy(update={"prompts": "random"}))
    size = source.stat().st_size
    monkeypatch.setattr(prompts, "SMALL", size)
    with pytest.raises(InputError):
        check_conversations(few)
    monkeypatch.setattr(prompts, "SMALL", size - 1)
    check_conversations(few)
    check_conversations(settings(f"bench.dataset.path={tmp_path}/missing.json", "bench.num_prompts=4").bench)


def test_questions_without_answers_are_refused_before_any_work(settings, tmp_path: Path) -> None:
    source = written(tmp_path, [turns(9, None) for _ in range(3)])
    given = (f"bench.dataset.path={source}", "bench.warmup_prompts=1", "bench.num_prompts=3")
    with pytest.raises(InputError, match="none of 3 rows is a conversation with a question and an answer"):
        check_conversations(settings(*given).bench)
    check_conversations(settings(*given, "bench.output_len=8").bench)


@pytest.mark.parametrize(
    ("endpoint", "context", "fits"),
    [("openai", 30, True), ("openai", 29, False), ("openai-chat", 94, True), ("openai-chat", 93, False)],
)
def test_random_prompts_fill_a_context_to_its_end(settings, endpoint: str, context: int, fits: bool) -> None:
    bench = settings(
        "bench=throughput", "bench.input_len=20", "bench.output_len=10", f"bench.endpoint={endpoint}"
    ).bench
    if fits:
        check_lengths(bench, context)
        return
    with pytest.raises(InputError) as refused:
        check_lengths(bench, context)
    assert ("together with the chat template" in refused.value.problem) is (endpoint == "openai-chat")
