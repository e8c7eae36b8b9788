"""The model class against a toy server: values, choices, truncation, stop strings, batches and errors."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from support.completions_server import CompletionsServer, greedy, logprobs_after
from tokenizers.processors import TemplateProcessing

from pipeline.errors import ServerError
from pipeline.stages.eval import endpoint as endpoint_module
from pipeline.stages.eval.endpoint import Endpoint
from pipeline.stages.eval.model import ServedModel, until_first

QUESTION = "what is 1+1?\nA. 1\nB. 2\nC. 3\nD. 4\nanswer:"


def make(server: CompletionsServer, tokenizer: Any, **changes: Any) -> ServedModel:
    endpoint = Endpoint(server.url, "model", changes.pop("num_concurrent", 8), changes.pop("check", lambda: None))
    return ServedModel(endpoint, tokenizer, max_gen_toks=changes.pop("max_gen_toks", 8), **changes)


def choice(doc_id: int, context: str, options: list[str]) -> list[Instance]:
    return [
        Instance("loglikelihood", {}, (context, option), i, ("task", doc_id, 1)) for i, option in enumerate(options)
    ]


def generation(doc_id: int, context: str, **arguments: Any) -> Instance:
    return Instance("generate_until", {}, (context, arguments), 0, ("task", doc_id, 1))


def questions(n: int) -> list[Instance]:
    draw = random.Random(0)
    return [
        instance
        for doc_id in range(n)
        for instance in choice(doc_id, "".join(draw.choices("abcdef 0123", k=draw.randint(3, 40))) + "a:", list("ABCD"))
    ]


def test_one_request_scores_all_options_of_a_question(server: CompletionsServer, tokenizer: Any) -> None:
    model = make(server, tokenizer)
    values = model.loglikelihood(choice(0, QUESTION, ["A", "B", "C", "D"]))
    (request,) = server.requests
    ids = tokenizer(QUESTION).input_ids
    truth = logprobs_after(ids)
    assert request["prompt"] == [ids]
    assert values == [(truth[t], t == greedy(ids, 1)[0]) for t in tokenizer(["ABCD"]).input_ids[0]]
    assert model.tally.facts()["asked_once"] == 1


def test_the_fast_way_and_echo_agree(server: CompletionsServer, tokenizer: Any) -> None:
    fast, echo = make(server, tokenizer), make(server, tokenizer, fast_choice=False)
    asked = questions(40)
    assert fast.loglikelihood(asked) == echo.loglikelihood(asked)
    assert (fast.tally.fast, fast.tally.echo, echo.tally.fast, echo.tally.echo) == (40, 0, 0, 160)


def test_requests_are_batched_and_bounded(server: CompletionsServer, tokenizer: Any) -> None:
    model = make(server, tokenizer, num_concurrent=16)
    model.loglikelihood(questions(64))
    assert len(server.requests) == 4
    assert server.most_in_flight <= 16


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["A", "BC", "C", "D"], id="an option of two tokens"),
        pytest.param(["", "B"], id="an empty option"),
    ],
)
def test_other_options_go_by_echo(server: CompletionsServer, tokenizer: Any, options: list[str]) -> None:
    model = make(server, tokenizer)
    values = model.loglikelihood(choice(0, QUESTION, options))
    context = tokenizer(QUESTION).input_ids
    for option, (value, _) in zip(options, values, strict=True):
        ids = tokenizer(option).input_ids
        assert value == pytest.approx(sum(logprobs_after(context + ids[:i])[ids[i]] for i in range(len(ids))))
    assert model.tally.facts()["asked_once"] == 0
    assert all(request["echo"] for request in server.requests)


def test_options_that_differ_in_the_last_token_alone_are_asked_for_token_by_token(
    server: CompletionsServer, tokenizer: Any
) -> None:
    fast, echo = make(server, tokenizer), make(server, tokenizer, fast_choice=False)
    # A trailing space goes to the options, as the blank lines do that end a chat template.
    asked = [instance for i in range(20) for instance in choice(i, f"question {i}: ", list("ABCD"))]
    values = fast.loglikelihood(asked)
    assert (fast.tally.fast, fast.tally.echo) == (20, 0)
    prompts = [prompt for request in server.requests for prompt in request["prompt"]]
    assert len(prompts) == 2 * 20
    for (ours, greedy_), (theirs, greedy_too) in zip(values, echo.loglikelihood(asked), strict=True):
        assert (ours, greedy_) == (pytest.approx(theirs), greedy_too)


def test_options_after_different_contexts_go_by_echo(server: CompletionsServer, tokenizer: Any) -> None:
    model = make(server, tokenizer)
    instances = [Instance("loglikelihood", {}, (text, "A"), i, ("task", 0, 1)) for i, text in enumerate(["ab", "cd"])]
    model.loglikelihood(instances)
    assert (model.tally.fast, model.tally.echo) == (0, 2)


def test_a_trailing_space_belongs_to_the_continuation(server: CompletionsServer, tokenizer: Any) -> None:
    make(server, tokenizer).loglikelihood(choice(0, "answer: ", ["A"]))
    (request,) = server.requests
    assert request["prompt"] == tokenizer("answer: A").input_ids


def test_an_empty_context_is_the_end_of_a_text(server: CompletionsServer, tokenizer: Any) -> None:
    ((value, _),) = make(server, tokenizer).loglikelihood(choice(0, "", ["A"]))
    assert value == logprobs_after([tokenizer.eos_token_id])[tokenizer("A").input_ids[0]]


def test_a_server_that_does_not_know_label_ids_is_asked_by_echo(server: CompletionsServer, tokenizer: Any) -> None:
    fast = make(server, tokenizer).loglikelihood(questions(3))
    server.knows_label_ids = False
    model = make(server, tokenizer)
    assert model.loglikelihood(questions(3)) == fast
    assert model.tally.echo > 0


@pytest.mark.parametrize("fast", [True, False])
def test_a_prompt_longer_than_the_context_loses_its_beginning_and_is_counted(
    server: CompletionsServer, tokenizer: Any, fast: bool
) -> None:
    model = make(server, tokenizer, fast_choice=fast)
    text = "abc" * server.context
    values = model.loglikelihood([*choice(0, text, list("AB")), *choice(1, "short", list("AB"))])
    kept = tokenizer(text).input_ids[-(server.context - 2) :]
    assert values[0][0] == pytest.approx(logprobs_after(kept)[tokenizer("A").input_ids[0]])
    assert model.tally.facts()["truncated"] == 1


def test_generation_is_greedy_up_to_any_stop_string(server: CompletionsServer, tokenizer: Any) -> None:
    contexts = [f"{i} and {i}" for i in range(20)]
    whole = [tokenizer.decode(greedy(tokenizer(c).input_ids, 30), skip_special_tokens=True) for c in contexts]
    stops = ["q", "k", "<|im_end|>", "w", "z", "5", "."]
    model = make(server, tokenizer)
    texts = model.generate_until([generation(i, c, until=stops, max_gen_toks=30) for i, c in enumerate(contexts)])
    im_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for context, text, full in zip(contexts, texts, whole, strict=True):
        ids = greedy(tokenizer(context).input_ids, 30)
        cut = ids.index(im_end) if im_end in ids else len(ids)
        assert text == until_first(tokenizer.decode(ids[:cut], skip_special_tokens=True), stops)
        assert full.startswith(text)
    assert all(len(r["stop"]) == 4 and r["stop_token_ids"] == [im_end] for r in server.requests)
    assert all(r["temperature"] == 0 for r in server.requests)


def test_what_a_model_thinks_is_no_part_of_its_answer(server: CompletionsServer, tokenizer: Any) -> None:
    server.decode = lambda ids: "<think>Question: is it 5?</think>\n\n7. Question: next"
    (text,) = make(server, tokenizer, thinks=True).generate_until([generation(0, "a", until=["Question:"])])
    assert text == "7. "
    assert server.requests[-1]["stop"] == []
    (text,) = make(server, tokenizer).generate_until([generation(0, "a", until=["Question:"])])
    assert text == "<think>"


def test_the_budget_is_the_tasks_or_the_settings(server: CompletionsServer, tokenizer: Any) -> None:
    make(server, tokenizer, max_gen_toks=5).generate_until([generation(0, "a"), generation(1, "b", max_gen_toks=9)])
    assert sorted(request["max_tokens"] for request in server.requests) == [5, 9]


def test_no_answer_is_longer_than_the_settings_allow(server: CompletionsServer, tokenizer: Any) -> None:
    model = make(server, tokenizer, max_gen_toks=5, max_reply_toks=7)
    model.generate_until([generation(0, "a"), generation(1, "b", max_gen_toks=9)])
    assert sorted(request["max_tokens"] for request in server.requests) == [5, 7]


def test_a_budget_that_fills_the_context_gives_way_before_the_prompt_does(
    server: CompletionsServer, tokenizer: Any
) -> None:
    model = make(server, tokenizer, max_gen_toks=10_000)
    model.generate_until([generation(0, "abc"), generation(1, "abc" * server.context)])
    by_length = sorted(server.requests, key=lambda request: len(request["prompt"]))
    assert [len(r["prompt"]) for r in by_length] == [3, server.context // 2]
    assert all(len(r["prompt"]) + r["max_tokens"] == server.context for r in by_length)
    assert model.tally.facts()["truncated"] == 1
    assert model.tally.facts()["unfinished"] == 2
    assert len(model.tally.cut) == 2


def test_some_greedy_answers_are_asked_for_again_and_compared(server: CompletionsServer, tokenizer: Any) -> None:
    model = make(server, tokenizer, ask_again=3)
    asked = [generation(number, "a" * (number + 1)) for number in range(7)]
    asked.append(generation(7, "b", do_sample=True, temperature=0.8))
    once = make(server, tokenizer).generate_until(asked)
    assert model.generate_until(asked) == once
    facts = model.tally.facts()
    assert (facts["generated"], facts["asked_again"], facts["differing"]) == (8, 3, 0)
    server.wavers = True
    model.generate_until(asked)
    assert model.tally.facts()["differing"] > 0


def test_repeats_are_sampled_with_different_seeds(server: CompletionsServer, tokenizer: Any) -> None:
    instance = generation(0, "a", do_sample=True, temperature=0.8)
    make(server, tokenizer, seed=5).generate_until([instance, instance])
    assert sorted(request["seed"] for request in server.requests) == [5, 6]
    assert all(request["temperature"] == 0.8 for request in server.requests)


def test_rolling_windows_cover_a_long_text(server: CompletionsServer, tokenizer: Any) -> None:
    server.context = 34
    text = "the quick brown fox jumps over the lazy dog. " * 3
    (value,) = make(server, tokenizer).loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {}, (text,), 0, ("task", 0, 1))]
    )
    assert value < 0
    assert len(server.requests) == 5


def test_a_rolling_text_begins_with_one_bos_where_the_tokenizer_writes_it(
    server: CompletionsServer, tokenizer: Any
) -> None:
    with_bos = copy.deepcopy(tokenizer)
    with_bos.bos_token = "<|im_end|>"
    bos = with_bos.bos_token_id
    with_bos.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{with_bos.bos_token} $A", special_tokens=[(with_bos.bos_token, bos)]
    )
    (value,) = make(server, with_bos).loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {}, ("abc",), 0, ("task", 0, 1))]
    )
    ids = tokenizer("abc").input_ids
    assert value == pytest.approx(sum(logprobs_after([bos, *ids[:i]])[token] for i, token in enumerate(ids)))
    assert server.requests[0]["prompt"] == [bos, *ids]


def test_a_failing_server_is_asked_again(
    server: CompletionsServer, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_module, "FIRST_PAUSE_S", 0.01)
    server.failures = [500, 503, 429]
    assert len(make(server, tokenizer).generate_until([generation(0, "a")])) == 1
    server.failures = [500] * 20
    with pytest.raises(ServerError, match="HTTP 500: as told"):
        make(server, tokenizer).generate_until([generation(0, "a")])


def test_a_refused_request_is_not_repeated(server: CompletionsServer, tokenizer: Any) -> None:
    server.failures = [400]
    with pytest.raises(ServerError, match="HTTP 400: as told"):
        make(server, tokenizer, num_concurrent=1).generate_until([generation(0, "a"), generation(1, "b")])
    assert len(server.requests) == 1


def test_a_dead_server_is_named_at_once(
    server: CompletionsServer, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_module, "WATCH_S", 0.01)

    def check() -> None:
        if server.requests:
            raise ServerError("vLLM ended.")

    model = make(server, tokenizer, check=check)
    assert model.endpoint.context == 512
    server.failures = [500] * 20
    with pytest.raises(ServerError, match="vLLM ended"):
        model.generate_until([generation(0, "a")])


def test_progress_reaches_the_number_of_requests(server: CompletionsServer, tokenizer: Any) -> None:
    seen: list[tuple[int, int]] = []
    make(server, tokenizer, progress=lambda done, total: seen.append((done, total))).loglikelihood(questions(10))
    assert seen[-1] == (40, 40)
    assert seen == sorted(seen)
