"""A model's chat template: the text of a conversation, the same on every day, what it refuses, whether it thinks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.tasks.conversation_rows import SEPARATOR, Conversation

# Templates that print the day call this function of transformers'; Llama 3's print this day where it is missing.
TODAY = "strftime_now"
DATE = datetime(2024, 7, 26)
# Ends of what a model thinks before it replies, and the template's argument that turns it off.
OPENED, CLOSED = "<think>", "</think>"
SWITCH = "enable_thinking"


class TemplateRefusal(InputError):
    """A chat template raises an error on a conversation."""


@dataclass
class ChatTemplate:
    """Chat template of a tokenizer.

    Attributes:
        tokenizer: the tokenizer, by transformers.
        arguments: the template's arguments besides the conversation.
    """

    tokenizer: Any
    arguments: Mapping[str, object] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The template itself; empty if the tokenizer has none."""
        return str(getattr(self.tokenizer, "chat_template", None) or "")

    @property
    def date(self) -> str | None:
        """The fixed day that the template prints; None if it prints none."""
        return _date_in(self.source)

    @cached_property
    def thinks(self) -> bool:
        """True if replies begin with thoughts: the template opens them, or has a way to prevent them that is not taken.

        Qwen3 thinks unless its template writes empty thoughts; DeepSeek-R1's opens them in any case.
        """
        question = [{"role": "user", "content": "?"}]
        without = ChatTemplate(self.tokenizer, {**self.arguments, SWITCH: False})
        try:
            begun = self.render(question, add_generation_prompt=True)
            prevented = without.render(question, add_generation_prompt=True)
        except TemplateRefusal:
            return False
        return begun.rfind(OPENED) > begun.rfind(CLOSED) or prevented.count(CLOSED) > begun.count(CLOSED)

    def render(self, conversation: Conversation, **options: bool) -> str:
        """Return the text of a conversation.

        Raises:
            TemplateRefusal: when the template fails on it.
        """
        day = {TODAY: DATE.strftime} if self.date else {}
        try:
            return str(
                self.tokenizer.apply_chat_template(conversation, tokenize=False, **day, **self.arguments, **options)
            )
        except Exception as error:
            roles = ", ".join(turn["role"] for turn in conversation)
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise TemplateRefusal(
                f"The model's chat template fails on a conversation of the turns {roles}: {reason}.",
                "Give the tokenizer a chat_template.jinja that accepts it, or name other conversations.",
            ) from None

    def fitted(self, conversation: Conversation) -> Conversation:
        """Return the conversation with its system turn as the template takes it, which may be in the user's words.

        Gemma's documentation advises so: https://ai.google.dev/gemma/docs/core/prompt-structure.
        """
        if conversation[0]["role"] != "system" or self._takes_system:
            return conversation
        system, user, *rest = conversation
        return [{"role": "user", "content": f"{system['content']}{SEPARATOR}{user['content']}"}, *rest]

    @cached_property
    def _takes_system(self) -> bool:
        turns = [{"role": role, "content": role} for role in ("system", "user", "assistant")]
        # A template that fails on everything is not made to work by leaving the system turn out.
        return self._takes(turns) or not self._takes(turns[1:])

    def _takes(self, conversation: Conversation) -> bool:
        try:
            self.render(conversation)
        except TemplateRefusal:
            return False
        return True


def switched(enable_thinking: bool | None) -> dict[str, bool]:
    """Return the template's arguments for a setting; none for what the template does by itself."""
    return {} if enable_thinking is None else {SWITCH: enable_thinking}


def behind_thoughts(text: str, is_cut: bool) -> str:
    """Return the reply behind what a model thought; empty if it had not finished thinking when it was cut."""
    _, end, reply = text.rpartition(CLOSED)
    if end:
        return reply.lstrip()
    return "" if is_cut or OPENED in text else text


def date_printed(folder: Path) -> str | None:
    """Return the fixed day that the template of a checkpoint's folder prints; None if it prints none."""
    return _date_in(_text_of(folder))


def may_think(folder: Path, enable_thinking: bool | None) -> bool:
    """Return whether the template of a checkpoint's folder knows thoughts, and is not told to prevent them."""
    text = _text_of(folder)
    return CLOSED in text and (enable_thinking is not False or SWITCH not in text)


def _text_of(folder: Path) -> str:
    files = [*folder.glob("chat_template*"), *folder.glob("tokenizer_config.json")]
    return "".join(path.read_text(encoding="utf-8", errors="replace") for path in files if path.is_file())


def _date_in(template: str) -> str | None:
    return DATE.date().isoformat() if TODAY in template else None
