"""lm-eval's tasks as the evaluation uses them: prompts are unchanged, and each template is compiled once."""

from collections import Counter

import pytest
from lm_eval import utils

from pipeline.tasks.lm_eval_tasks import templates_compiled_once


def test_a_template_is_compiled_once_and_rendered_for_each_item(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = Counter[str]()
    compile_one = utils.env.from_string

    def counted(source: str) -> object:
        compiled[source] += 1
        return compile_one(source)

    monkeypatch.setattr(utils.env, "from_string", counted)
    templates = ("Q: {{question}}\nA:", "{{question | upper}}")
    expected = [utils.apply_template(each, {"question": f"number {n}"}) for n in range(5) for each in templates]
    assert set(compiled.values()) == {5}
    compiled.clear()
    with templates_compiled_once():
        found = [utils.apply_template(each, {"question": f"number {n}"}) for n in range(5) for each in templates]
    assert found == expected and compiled == dict.fromkeys(templates, 1)
