"""A served checkpoint behind lm-eval's model interface: log-likelihoods and greedy generation over the completions API.

lm-eval's own client asks one `echo` request for each option of a question, and the server computes the same prompt
once for each. Where all options are single tokens after the same context, one request for one token answers the whole
question: vLLM reports the log-probabilities of exactly the tokens named in `logprob_token_ids`, over the full
vocabulary and before any sampling parameter, so the values are those of `echo`. Options that begin with the same
tokens and differ in the last (a chat template ends in blank lines, which tokenizers give to what follows) take one
more request for each of those, over a prefix that the server has computed. Everything else goes the `echo` way.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lm_eval.api.model import LM

from pipeline.errors import InputError
from pipeline.models.generation import GREEDY, NEUTRAL
from pipeline.stages.eval.endpoint import Body, Completion, Endpoint
from pipeline.stages.eval.options import LogLikelihood, Option, Tokens, is_choice, of_labels
from pipeline.stages.eval.tally import Tally
from pipeline.tasks.chat_templates import ChatTemplate, TemplateRefusal, behind_thoughts, switched

# Prompts of a request where answers come at once: spares the server's front end, which is Python, most of its work.
PROMPTS_PER_REQUEST = 16
# vLLM refuses more, though tasks have five and seven; what is not sent is cut off here.
STOP_STRINGS = 4
LIMIT_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens")

# Texts tokenized at a time; ids are kept as arrays, since a list of a benchmark's ids would take gigabytes.
TEXTS_PER_BATCH = 2048


class ServedModel(LM):  # type: ignore[misc]
    """lm-eval's model interface over one server."""

    def __init__(
        self,
        endpoint: Endpoint,
        tokenizer: Any,
        *,
        max_gen_toks: int,
        max_reply_toks: int | None = None,
        seed: int = 0,
        fast_choice: bool = True,
        enable_thinking: bool | None = None,
        thinks: bool = False,
        ask_again: int = 0,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Serve requests through `endpoint`.

        Args:
            endpoint: the server.
            tokenizer: the checkpoint's, of transformers.
            max_gen_toks: new tokens where a task sets no limit.
            max_reply_toks: new tokens at most, whatever the task sets; None: no further limit.
            seed: of sampling, where a task samples.
            fast_choice: False to ask by `echo` alone.
            enable_thinking: Qwen3's switch of the chat template; None: what the template does by itself.
            thinks: whether replies begin with thoughts, which are no part of an answer.
            ask_again: greedy generations of a task that are asked for a second time, for how much they differ alone.
            progress: called with the requests of lm-eval that are answered, and their number.
        """
        super().__init__()
        self.endpoint = endpoint
        self.tokenizer = tokenizer
        self.max_gen_toks = max_gen_toks
        self.max_reply_toks = max_reply_toks
        self.seed = seed
        self.fast_choice = fast_choice
        self.enable_thinking = enable_thinking
        self.thinks = thinks
        self.ask_again = ask_again
        self.progress = progress
        self.tally = Tally()
        bos = tokenizer.bos_token_id
        # A tokenizer that opens every text with its BOS token was trained on, and is served, such texts.
        self._prefix = Tokens("i", [bos] if bos is not None and tokenizer("").input_ids[:1] == [bos] else [])

    @property
    def eot_token_id(self) -> int:
        """Token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """Token in place of an empty context."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer in lm-eval's caches and results."""
        return str(self.tokenizer.name_or_path)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the token ids of a text."""
        return list(self._encode([string])[string])

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the conversation as text, up to the model's reply, or with a given beginning of it.

        Raises:
            InputError: when the template fails on it.
        """
        try:
            text = ChatTemplate(self.tokenizer, switched(self.enable_thinking)).render(
                chat_history,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        except TemplateRefusal as error:
            raise InputError(
                f"eval.chat_template=true: {error.problem}",
                "Set eval.chat_template=false, or evaluate a checkpoint whose template takes them.",
            ) from error
        # The BOS token that a template writes is the one that `_encode` would add.
        return text.removeprefix(self.tokenizer.bos_token) if self._prefix else text

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[LogLikelihood]:
        """Return the log-likelihood of each continuation, and whether greedy decoding would have written it."""
        options = list(self._options(requests))
        values: dict[int, LogLikelihood] = {}
        questions: dict[Hashable, list[Option]] = defaultdict(list)
        for option in options:
            questions[option.question].append(option)
        fast = [group for group in questions.values() if self.fast_choice and is_choice(group)]
        self._ask_once(fast, values, len(options))
        self.tally.fast += sum(group[0].index in values for group in fast)
        rest = [option for option in options if option.index not in values]
        self._echo(rest, values, len(options))
        self.tally.echo += len(rest)
        return [values[index] for index in range(len(options))]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of whole texts, in windows of the context's length."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        options: list[Option] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            windows = get_rolling_token_windows(
                # The first window begins with the prefix token, which may be what `tok_encode` puts in front.
                token_list=self.tok_encode(request.args[0])[len(self._prefix) :],
                prefix_token=self.prefix_token_id,
                max_seq_len=self.endpoint.context - 2,
                context_len=1,
            )
            for context, continuation in map(make_disjoint_window, windows):
                options.append(Option(len(options), None, Tokens("i", context), Tokens("i", continuation)))
                owners.append(owner)
        values: dict[int, LogLikelihood] = {}
        self._echo(options, values, len(options))
        sums = [0.0] * len(requests)
        for index, owner in enumerate(owners):
            sums[owner] += values[index][0]
        self.tally.echo += len(options)
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the continuation of each prompt, greedy unless the task says otherwise, up to its stop strings."""
        answers = self._generate(requests, self.progress)
        self.tally.generated += len(requests)
        self.tally.unfinished += sum(cut for _, cut in answers)
        ran_on = (request for request, (_, cut) in zip(requests, answers, strict=True) if cut)
        self.tally.cut.update((request.task_name, request.doc_id) for request in ran_on)
        greedy = [index for index, request in enumerate(requests) if not _is_sampled(request.args[1])]
        if chosen := greedy[:: -(-len(greedy) // self.ask_again)] if self.ask_again else []:
            again = self._generate([requests[index] for index in chosen])
            self.tally.asked_again += len(chosen)
            self.tally.differing += sum(answers[index] != other for index, other in zip(chosen, again, strict=True))
        return [text for text, _ in answers]

    def _generate(
        self, requests: Sequence[Any], progress: Callable[[int, int], None] = lambda done, total: None
    ) -> list[tuple[str, bool]]:
        """Return the text of each request, and whether the token budget cut it."""
        prompts = self._encode(request.args[0] for request in requests)
        answers = [("", False)] * len(requests)
        done = 0

        def read(_: int, choice: Completion) -> list[Any]:
            return [choice["text"], choice.get("finish_reason")]

        def arrived(index: int, answer: list[Any]) -> None:
            nonlocal done
            text, reason = answer
            if self.thinks:
                text = behind_thoughts(text, is_cut=reason == "length")
            kept = until_first(text, _stops(requests[index].args[1]))
            answers[index] = (kept, reason == "length" and kept == text)
            done += 1
            progress(done, len(requests))

        self.endpoint.complete(self._generations(requests, prompts), read, arrived)
        return answers

    def _generations(self, requests: Sequence[Any], prompts: dict[str, Tokens[int]]) -> Iterator[Body]:
        """Return the requests; a repeated prompt gets another seed."""
        repeats = Counter[Hashable]()
        for request in requests:
            mark = (request.task_name, request.doc_id, request.args[0])
            yield self._generation(request, prompts[request.args[0]], self.seed + repeats[mark])
            repeats[mark] += 1

    def _generation(self, request: Any, prompt: Tokens[int], seed: int) -> Body:
        """Return one generation request; the prompt is cut from the left to leave room for an answer."""
        given = dict(request.args[1])
        budget = next((int(given[name]) for name in LIMIT_NAMES if given.get(name) is not None), self.max_gen_toks)
        budget = min(budget, self.max_reply_toks or budget)
        sampled = _is_sampled(given)
        strings, ids = self._stops_as_sent(_stops(given))
        # One within its thoughts would end them.
        strings = [] if self.thinks else strings
        for name in (*LIMIT_NAMES, "until", "do_sample"):
            given.pop(name, None)
        context = self.endpoint.context
        # A budget of more than half the context gives way before the prompt does.
        room = context - min(budget, context // 2)
        if len(prompt) > room:
            self.tally.truncated.add((request.task_name, request.doc_id))
            prompt = prompt[-room:]
        return {
            **({**NEUTRAL, **given} if sampled else {**given, **GREEDY}),
            "prompt": list(prompt),
            "max_tokens": min(budget, context - len(prompt)),
            "stop": strings,
            "stop_token_ids": ids,
            "seed": seed,
        }

    def _stops_as_sent(self, stops: Sequence[str]) -> tuple[list[str], list[int]]:
        """Return the stop strings for the server, and the ids of those that are one special token."""
        strings, ids = [], []
        for stop in stops:
            tokens = self._encode([stop])[stop][len(self._prefix) :]
            if len(tokens) == 1 and tokens[0] in self.tokenizer.all_special_ids:
                ids.append(tokens[0])
            else:
                strings.append(stop)
        return strings[:STOP_STRINGS], ids

    def _options(self, requests: Sequence[Any]) -> Iterator[Option]:
        """Split each context and continuation into tokens the way lm-eval does: as one text, cut after the context."""
        for start in range(0, len(requests), TEXTS_PER_BATCH):
            batch = requests[start : start + TEXTS_PER_BATCH]
            pairs = [_without_trailing_space(*request.args) for request in batch]
            tokens = self._encode(text for pair in pairs for text in (pair[0], "".join(pair)))
            for index, (request, (context, continuation)) in enumerate(zip(batch, pairs, strict=True), start):
                whole, before = tokens[context + continuation], tokens[context]
                if not context:
                    before = Tokens("i", [self.prefix_token_id])
                    whole = whole if whole[:1] == before else before + whole
                yield Option(index, (request.task_name, request.doc_id), before, whole[len(before) :])

    def _encode(self, texts: Iterable[str]) -> dict[str, Tokens[int]]:
        """Return the token ids of each distinct text."""
        distinct = list(dict.fromkeys(texts))
        tokens: dict[str, Tokens[int]] = {}
        for start in range(0, len(distinct), TEXTS_PER_BATCH):
            batch = distinct[start : start + TEXTS_PER_BATCH]
            encoded = self.tokenizer(batch, add_special_tokens=False, return_attention_mask=False).input_ids
            tokens |= {text: self._prefix + Tokens("i", ids) for text, ids in zip(batch, encoded, strict=True)}
        return tokens

    def _ask_once(self, questions: Sequence[list[Option]], values: dict[int, LogLikelihood], total: int) -> None:
        """Score each question by requests for one token; skip those that an older server does not answer."""
        # For each question: the value of each label at each place of the continuations.
        found: list[list[dict[int, LogLikelihood] | None]] = [
            [None] * len(group[0].continuation) for group in questions
        ]
        kinds: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
        for number, group in enumerate(questions):
            for place in range(len(found[number])):
                kinds[tuple(sorted({option.continuation[place] for option in group}))].append((number, place))
        # Those that share their labels can share a request.
        asked = [(labels, number, place) for labels, places in kinds.items() for number, place in places]

        def prompt(number: int, place: int) -> list[int]:
            context, continuation = self._fit(questions[number][0])
            return [*context, *continuation[:place]]

        bodies = (
            {
                "prompt": prompt(number, place),
                "max_tokens": 1,
                "logprobs": 1,
                "logprob_token_ids": list(labels),
                "return_tokens_as_token_ids": True,
                **GREEDY,
            }
            for labels, number, place in asked
        )

        def read(index: int, choice: Completion) -> list[LogLikelihood]:
            return of_labels(asked[index][0], choice) or []

        def arrived(index: int, answer: list[LogLikelihood]) -> None:
            labels, number, place = asked[index]
            found[number][place] = dict(zip(labels, answer, strict=True)) if answer else None
            if all(found[number]):
                for option in questions[number]:
                    parts = [at[t] for at, t in zip(found[number], option.continuation, strict=True) if at]
                    values[option.index] = (sum(part[0] for part in parts), all(part[1] for part in parts))
            self.progress(len(values), total)

        self.endpoint.complete(bodies, read, arrived, batch=PROMPTS_PER_REQUEST)

    def _echo(self, options: Sequence[Option], values: dict[int, LogLikelihood], total: int) -> None:
        """Score each continuation by the log-probabilities of its own prompt."""
        fitted = (self._fit(option) for option in options)
        bodies = (
            {
                "prompt": [*context, *continuation],
                "max_tokens": 1,
                "logprobs": 1,
                "echo": True,
                "return_tokens_as_token_ids": True,
                **GREEDY,
            }
            for context, continuation in fitted
        )

        def read(index: int, choice: Completion) -> LogLikelihood:
            reported = choice["logprobs"]
            # The last token is the one that was generated.
            scored = slice(-1 - len(self._fit(options[index])[1]), -1)
            scores = reported["token_logprobs"][scored]
            best = [max(top.values()) for top in reported["top_logprobs"][scored]]
            return float(sum(scores)), scores == best

        def arrived(index: int, answer: LogLikelihood) -> None:
            values[options[index].index] = (answer[0], answer[1])
            self.progress(len(values), total)

        self.endpoint.complete(bodies, read, arrived)

    def _fit(self, option: Option) -> tuple[Tokens[int], Tokens[int]]:
        """Return context and continuation, cut from the left if they and one more token exceed the context."""
        room = self.endpoint.context - 1
        excess = len(option.context) + len(option.continuation) - room
        if excess <= 0:
            return option.context, option.continuation
        if option.question is not None:
            self.tally.truncated.add(option.question)
        # The first token of a prompt has no probability, so one of the context stays.
        kept = max(1, len(option.context) - excess)
        return option.context[-kept:], option.continuation[-(room - kept) :]


def _is_sampled(arguments: Mapping[str, Any]) -> bool:
    return bool(arguments.get("do_sample", float(arguments.get("temperature") or 0) > 0))


def _stops(arguments: Mapping[str, Any]) -> list[str]:
    """Return a task's stop strings: one, several or none."""
    until = arguments.get("until") or []
    return [stop for stop in ([until] if isinstance(until, str) else until) if stop]


def until_first(text: str, stops: Iterable[str]) -> str:
    """Return the text before the first of the stop strings."""
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]


def _without_trailing_space(context: str, continuation: str) -> tuple[str, str]:
    """Move a context's trailing space to the continuation, as tokenizers do."""
    end = len(context.rstrip())
    return context[:end], context[end:] + continuation
