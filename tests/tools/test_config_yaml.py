"""`conf/config.yaml` says of every setting what the schema says."""

import pytest
import yaml

from pipeline.config import Settings
from pipeline.config.names import section_of
from tools.config_yaml import CONFIG, default_of, is_given, regenerated

TEXT = CONFIG.read_text(encoding="utf-8")


def test_config_yaml_is_what_the_schema_says() -> None:
    assert regenerated(TEXT) == TEXT, "make config"


@pytest.mark.parametrize(
    ("written", "altered"),
    [
        ("# conversations forwarded", "# conversations"),
        ("num_samples: 200 ", "num_samples: 201 "),
        ("  #   min_prompts: 32 ", "  #   min_prompts: 8 "),
        ("  drop_long: false", "  dropped: false"),
    ],
)
def test_what_was_altered_by_hand_is_seen_and_mended(written: str, altered: str) -> None:
    assert TEXT.count(written) == 1
    changed = TEXT.replace(written, altered)
    assert regenerated(changed) == TEXT != changed


def test_what_stands_outside_the_marks_is_kept() -> None:
    changed = TEXT.replace("  - bench: quick", "  - bench: study").replace("chdir: false", "chdir: true")
    assert regenerated(changed) == changed


def test_lost_marks_are_an_error() -> None:
    with pytest.raises(ValueError, match="lacks a mark"):
        regenerated("stage: all\n")


def test_yaml_reads_back_the_defaults() -> None:
    loaded = yaml.safe_load(TEXT)

    def compare(kind, values) -> None:
        given = {name: field for name, field in kind.model_fields.items() if is_given(field)}
        assert set(values) == set(given)
        for name, field in given.items():
            if isinstance(field.annotation, type) and (section := section_of(field)):
                compare(section, values[name])
            else:
                assert values[name] == default_of(field), name

    compare(Settings, {name: value for name, value in loaded.items() if name not in ("defaults", "hydra")})
