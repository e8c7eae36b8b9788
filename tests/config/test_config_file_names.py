"""Names that file systems and shells take as they are."""

import pytest

from pipeline.config.file_names import LONGEST, file_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("w4a16+fp8_e4m3@marlin", "w4a16+fp8_e4m3@marlin"),
        ("gptq(ignore=[lm_head,re:.*down_proj])", "gptq-ignore=-lm_head-re-.-down_proj"),
        ("Llama 3.2 1B", "Llama-3.2-1B"),
        ("GSM8K (5-shot)", "GSM8K-5-shot"),
        ("C-Eval", "C-Eval"),
        ("a/b", "a-b"),
        ("..", "_"),
        ("", "_"),
        (".hidden", "hidden"),
        ("通义千问 2.5", "通义千问-2.5"),
    ],
)
def test_a_name_is_kept_as_far_as_a_path_permits(text: str, name: str) -> None:
    assert file_name(text) == name


def test_a_long_name_fits_into_a_folder_in_any_letters() -> None:
    for letter in "a", "é", "千":
        assert len(file_name(400 * letter).encode()) <= LONGEST
        assert set(file_name(400 * letter)) == {letter}
