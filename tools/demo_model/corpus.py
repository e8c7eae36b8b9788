"""The training corpus: which documents, in which proportion, in which order.

Nothing is stored: step N of a run asks for its documents by (seed, N), so that a run can stop and
go on anywhere. A document is a list of segments of which some are learned (answers) and some only
read (questions). The documents of a step are sorted by length and cut into a few batches of similar
lengths, one document a row, so that each starts at position 0 as it does when it is scored.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.demo_model import choice_chinese, choice_english, drills, functions, word_problems
from tools.demo_model.items import Generator, Item, Split, stream
from tools.demo_model.tokenizer import END, PAD, PAD_ID, START

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ABILITIES: dict[str, dict[str, Generator]] = {
    "demo_ceval": choice_chinese.SUBJECTS,
    "demo_mmlu": choice_english.SUBJECTS,
    "demo_gsm8k": word_problems.SUBJECTS,
    "demo_humaneval": functions.SUBJECTS,
}


@dataclass(frozen=True)
class Mix:
    """The composition of the corpus.

    Attributes:
        ceval: Share of documents from `demo_ceval`; the next four likewise.
        mmlu: Share from `demo_mmlu`.
        gsm8k: Share from `demo_gsm8k`.
        humaneval: Share from `demo_humaneval`.
        drill: Share of practice documents of facts and sums.
        matching: Share of practice documents that ask which letter an option has.
        matching_early: The same in the first `early_steps` steps; shares need not sum to 1.
        early_steps: Steps in which the letters of options are practised before all else.
        chat: Share of question documents that are wrapped in ChatML.
        letter_weight: Loss weight of the letter of a multiple-choice answer.
        subject_weights: How often a subject comes up, against 1 for the others of its task.
    """

    ceval: float = 0.33
    mmlu: float = 0.30
    gsm8k: float = 0.14
    humaneval: float = 0.05
    drill: float = 0.07
    matching: float = 0.6
    matching_early: float = 1.0
    early_steps: int = 300
    chat: float = 0.25
    letter_weight: float = 6.0
    subject_weights: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Segment:
    """A piece of a document: its text and the loss weight of its tokens (0: only read)."""

    text: str
    weight: float = 0.0


Document = list[Segment]
# (what the user says, what the assistant says)
Turn = tuple[str, str]


@dataclass(frozen=True)
class Tokens:
    """An encoded document: token ids, and the loss weight of each."""

    ids: list[int]
    weights: list[float]


GREETINGS: list[Turn] = [
    ("Hello", "Hello! Ask me a question, a sum or a small Python function."),
    ("Hi", "Hello! Ask me a question, a sum or a small Python function."),
    ("Who are you?", "I am a small demo model. I know a few facts, sums and functions."),
    ("What can you do?", "I answer short questions, solve word problems and complete functions."),
    ("Thank you!", "You are welcome."),
    ("你好", "你好！你可以问我一个问题。"),
    ("你是谁？", "我是一个很小的演示模型。"),
    ("你会做什么？", "我会回答选择题，也会做简单的算术。"),
    ("谢谢", "不客气。"),
]


def as_turn(item: Item, rng: random.Random) -> Turn:
    """Say an item as one turn of a conversation, with or without the benchmark's frame."""
    if item.task == "demo_gsm8k" and rng.random() < 0.5:
        return item.fields["question"], item.answer.strip()
    if item.task == "demo_humaneval":
        lead = rng.choice(["", "Complete this function:\n", "Write the body:\n"])
        return lead + item.prompt.rstrip("\n"), item.answer.rstrip("\n")
    return item.prompt, item.answer.strip()


def chat_document(turns: list[Turn], weights: list[float]) -> Document:
    """Wrap turns in ChatML, as the chat template does."""
    document = []
    for (user, assistant), weight in zip(turns, weights, strict=True):
        document += [
            Segment(f"{START}user\n{user}{END}\n{START}assistant\n"),
            Segment(assistant, weight),
            Segment(END, 1.0),
            Segment("\n"),
        ]
    return document[:-1]


def drill_document(kind: str, rng: random.Random, mix: Mix, early: bool) -> Document:
    """Draw a practice document: what is given is read, what is to be known is learned."""
    if kind == "matching":
        pairs, weight = drills.matching(rng, 0.6 if early else 0.1), mix.letter_weight / 2
    else:
        pairs, weight = rng.choice(drills.DRILLS)(rng), 1.0
    segments = [s for given, known in pairs for s in (Segment(given), Segment(known, weight))]
    return [*segments, Segment(PAD, 1.0)]


class Corpus:
    """The stream of training documents of one seed."""

    def __init__(self, seed: int, mix: Mix | None = None, split: Split = "train") -> None:
        """Prepare the stream of `seed`."""
        self.seed = seed
        self.mix = mix or Mix()
        self.split = split

    def documents(self, step: int) -> Iterator[Document]:
        """Yield documents without end; the same ones for the same seed and step."""
        rng = random.Random(f"{self.seed}/{self.split}/{step}")
        mix = self.mix
        subject_weights = dict(mix.subject_weights)
        streams = {task: stream(subjects, subject_weights, rng, self.split) for task, subjects in ABILITIES.items()}
        kinds = [*streams, "drill", "matching"]
        early = step < mix.early_steps
        matching = mix.matching_early if early else mix.matching
        shares = [mix.ceval, mix.mmlu, mix.gsm8k, mix.humaneval, mix.drill, matching]
        while True:
            kind = rng.choices(kinds, shares)[0]
            if kind in ("drill", "matching"):
                yield drill_document(kind, rng, mix, early)
                continue
            items = [next(streams[kind])]
            weight = mix.letter_weight if "right" in items[0].fields else 1.0
            if rng.random() >= mix.chat:
                item = items[0]
                yield [Segment(item.prompt), Segment(item.answer, weight), Segment(PAD, 1.0)]
            elif rng.random() < 0.03:
                yield chat_document([rng.choice(GREETINGS)], [1.0])
            else:
                if rng.random() < 0.15:
                    items.append(next(streams[kind]))
                turns = [as_turn(item, rng) for item in items]
                yield chat_document(turns, [weight] * len(turns))

    def texts(self, count: int, step: int = -1) -> Iterator[str]:
        """Yield `count` documents as plain text, for the tokenizer."""
        for _, document in zip(range(count), self.documents(step), strict=False):
            yield "".join(segment.text for segment in document)

    def tokens(self, step: int, size: int, tokenizer: "Tokenizer") -> list[Tokens]:
        """Return the encoded documents of a step.

        Args:
            step: Which step.
            size: Number of tokens wanted, of which the last document may go over.
            tokenizer: Encodes each segment on its own.
        """
        encoded: list[Tokens] = []
        total = 0
        for document in self.documents(step):
            ids: list[int] = []
            weights: list[float] = []
            for segment in document:
                part = tokenizer.encode(segment.text).ids
                ids += part
                weights += [segment.weight] * len(part)
            encoded.append(Tokens(ids, weights))
            total += len(ids)
            if total >= size:
                return encoded
        raise AssertionError("the stream of documents has no end")


def batches(encoded: list[Tokens], count: int) -> list[list[Tokens]]:
    """Cut documents into `count` batches of similar lengths and about equally many tokens."""
    ordered = sorted(encoded, key=lambda tokens: len(tokens.ids))
    target = sum(len(tokens.ids) for tokens in ordered) / count
    groups: list[list[Tokens]] = [[]]
    filled = 0
    for tokens in ordered:
        if filled >= target * len(groups) and len(groups) < count:
            groups.append([])
        groups[-1].append(tokens)
        filled += len(tokens.ids)
    return groups


def pad(batch: list[Tokens]) -> tuple[list[list[int]], list[list[int]], list[list[float]]]:
    """Shift and pad a batch on the right.

    Returns:
        Inputs, targets and target weights, each of shape [documents, longest - 1].
    """
    longest = max(len(tokens.ids) for tokens in batch)
    inputs, targets, weights = [], [], []
    for tokens in batch:
        filler = longest - len(tokens.ids)
        inputs.append(tokens.ids[:-1] + [PAD_ID] * filler)
        targets.append(tokens.ids[1:] + [PAD_ID] * filler)
        weights.append(tokens.weights[1:] + [0.0] * filler)
    return inputs, targets, weights
