"""A model's chat template: the text of a conversation, the same on every day, and what the template refuses."""

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


def date_printed(folder: Path) -> str | None:
    """Return the fixed day that the template of a checkpoint's folder prints; None if it prints none."""
    files = [*folder.glob("chat_template*"), *folder.glob("tokenizer_config.json")]
    return _date_in("".join(path.read_text(encoding="utf-8", errors="replace") for path in files if path.is_file()))


def _date_in(template: str) -> str | None:
    return DATE.date().isoformat() if TODAY in template else None
