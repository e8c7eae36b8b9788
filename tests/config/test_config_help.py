"""Help has every group, choice and setting, and costs no composition."""

import pytest

from pipeline.config import Settings
from pipeline.config.help import TASKS, answer
from pipeline.config.names import choices, fields_of, groups
from pipeline.config.presets import CONF
from pipeline.errors import ConfigError


def test_no_word_at_all_is_answered_with_the_main_commands() -> None:
    text = answer([]) or ""
    assert all(words in text and task in text for task, words in TASKS)


def test_help_lists_every_choice() -> None:
    text = " ".join((answer(["--help"]) or "").split())
    for group in groups():
        assert f"{group}: {', '.join(choices(group))}" in text


@pytest.mark.parametrize("group", groups())
def test_help_on_a_group_describes_choices_and_settings(group: str) -> None:
    text = answer(["--help", group]) or ""
    lines = [line.split() for line in text.splitlines() if line.startswith("  ")]
    said = {line[0] for line in lines if len(line) > 1}
    assert said >= set(choices(group))
    names = [name for name, _ in fields_of(Settings) if name.startswith(f"{group}.")]
    sections = {name for name in names if any(each.startswith(f"{name}.") for each in names)}
    assert said >= set(names) - sections


@pytest.mark.parametrize("group", groups())
def test_the_line_of_a_choice_is_a_whole_sentence(group: str) -> None:
    for path in (CONF / group).glob("*.yaml"):
        first, second = [line for line in path.read_text().splitlines() if "@package" not in line][:2]
        assert not first.startswith("#") or first.endswith((".", "?")) or not second.startswith("#"), path.name


def test_a_users_own_choices_are_listed(tmp_path) -> None:
    (tmp_path / "quant").mkdir()
    (tmp_path / "quant" / "mine.yaml").write_text("# Ours.\nname: mine\n")
    assert "mine" in (answer(["--help", "--config-dir", str(tmp_path)]) or "")
    assert "mine " in (answer(["--help", "quant", "--config-dir", str(tmp_path)]) or "")


def test_an_unknown_group_is_named() -> None:
    with pytest.raises(ConfigError, match="--help quants: there is no such group. Groups: quant"):
        answer(["--help", "quants"])


def test_the_version_is_the_project_s() -> None:
    assert (answer(["--version"]) or "").startswith("quantization-pipeline ")


def test_other_words_are_the_runner_s() -> None:
    assert answer(["model=demo"]) is None
