"""A template's text is the same on every day; a system turn that it refuses is folded; its refusals are errors."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from pipeline.demo import CHECKPOINT
from pipeline.tasks.chat_templates import (
    ChatTemplate,
    TemplateRefusal,
    behind_thoughts,
    date_printed,
    may_think,
    switched,
)

TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
# The two ways of printing the day: Llama 3's, and SmolLM3's.
LLAMA = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "{% endif %}Today Date: {{ date_string }} " + TURNS
)
SMOLLM = "{% set today = strftime_now('%d %B %Y') %}Today Date: {{ today }} " + TURNS
GEMMA = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TURNS
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


def template(source: str) -> ChatTemplate:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    tokenizer.chat_template = source
    return ChatTemplate(tokenizer)


@pytest.mark.parametrize(("source", "printed"), [(LLAMA, "26 Jul 2024"), (SMOLLM, "26 July 2024")])
def test_the_date_is_the_same_on_every_day(source: str, printed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Tomorrow":
            return cls(2031, 5, 17)

    today = template(source).render(CHAT[1:])
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    asked = template(source)
    assert "2031" in asked.tokenizer.apply_chat_template(CHAT[1:], tokenize=False)
    assert asked.render(CHAT[1:]) == today == f"Today Date: {printed} [user]Hi"
    assert asked.date == "2024-07-26"


def test_a_template_without_dates_has_none() -> None:
    assert template(TURNS).date is None


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json"])
def test_the_date_is_known_from_the_files(tmp_path: Path, name: str) -> None:
    assert date_printed(tmp_path) is None
    (tmp_path / name).write_text(SMOLLM)
    assert date_printed(tmp_path) == "2024-07-26"


def test_a_system_turn_is_kept_where_the_template_takes_it_and_folded_where_not() -> None:
    assert template(TURNS).fitted(CHAT) == CHAT
    assert template(GEMMA).fitted([*CHAT, {"role": "assistant", "content": "Yo"}]) == [
        {"role": "user", "content": "Be brief.\n\nHi"},
        {"role": "assistant", "content": "Yo"},
    ]
    assert template(GEMMA).fitted(CHAT[1:]) == CHAT[1:]
    # One that refuses everything says so of the conversation as it is.
    assert template("{{ raise_exception('no') }}").fitted(CHAT) == CHAT


def test_the_template_is_tried_once() -> None:
    asked, rendered = template(GEMMA), []
    apply = asked.tokenizer.apply_chat_template
    asked.tokenizer.apply_chat_template = lambda *a, **k: rendered.append(a) or apply(*a, **k)
    for _ in range(5):
        asked.fitted(CHAT)
    assert len(rendered) == 2


def test_a_refusal_names_the_turns_and_the_templates_own_words() -> None:
    with pytest.raises(TemplateRefusal, match="turns system, user: System role not supported"):
        template(GEMMA).render(CHAT)


@pytest.mark.parametrize(
    "planted",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__ }}",
        "{{ raise_exception.__globals__['os'].system('touch escaped') }}",
        "{{ strftime_now.__self__.__class__ }}",
        "{{ cycler.__init__.__globals__.os.popen('touch escaped').read() }}",
        "{% set _ = messages.append({'role': 'user', 'content': 'planted'}) %}",
        "{% include '/etc/passwd' %}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
    ],
)
def test_a_template_of_a_stranger_stays_in_the_sandbox(
    planted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        text = template(planted + TURNS).render(CHAT)
    except TemplateRefusal:
        text = ""
    # What the sandbox takes for undefined is shown as nothing.
    assert text in ("", "[system]Be brief.[user]Hi") and len(CHAT) == 2
    assert not list(tmp_path.iterdir())


ASSISTANT = TURNS + "{% if add_generation_prompt %}[assistant]"
QWEN = (
    ASSISTANT + "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)
R1 = ASSISTANT + "<think>\n{% endif %}"


@pytest.mark.parametrize(
    ("source", "by_setting"),
    [
        (TURNS, {None: False, True: False, False: False}),
        (QWEN, {None: True, True: True, False: False}),
        (R1, {None: True, True: True, False: True}),
        ("{{ raise_exception('no') }}", {None: False}),
    ],
)
def test_a_template_tells_whether_the_model_thinks(source: str, by_setting: dict[bool | None, bool]) -> None:
    tokenizer = template(source).tokenizer
    assert {each: ChatTemplate(tokenizer, switched(each)).thinks for each in by_setting} == by_setting


@pytest.mark.parametrize(("source", "known"), [(TURNS, [0, 0, 0]), (QWEN, [1, 1, 0]), (R1 + "</think>", [1, 1, 1])])
def test_thoughts_are_known_from_the_files(tmp_path: Path, source: str, known: list[int]) -> None:
    (tmp_path / "chat_template.jinja").write_text(source)
    assert [may_think(tmp_path, each) for each in (None, True, False)] == [bool(each) for each in known]


@pytest.mark.parametrize(
    ("text", "is_cut", "reply"),
    [
        ("<think>\n5? 7?\n</think>\n\n7.", False, "7."),
        ("5? 7?\n</think>\n\n7.", True, "7."),
        ("<think>\n5? 7?", False, ""),
        ("5? 7?", True, ""),
        ("7.", False, "7."),
        ("<think>a</think>b<think>c</think>d", False, "d"),
    ],
)
def test_the_reply_is_behind_the_thoughts(text: str, is_cut: bool, reply: str) -> None:
    assert behind_thoughts(text, is_cut) == reply
