"""The choice of a mix: within its budget, in whichever unit it is stated, and what is ignored stays as it is."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from pipeline.config import ChosenSettings, Settings
from pipeline.demo import CHECKPOINT
from pipeline.errors import ConfigError
from pipeline.models.architecture import read_config
from pipeline.models.headers import stored_tensors
from pipeline.models.layout import bytes_of, stored
from pipeline.models.mix import UNROUNDED
from pipeline.models.modules import decoder_linears, loaded_as_one
from pipeline.results.mix import Mix, Sensitivities
from pipeline.stages.quantize.mixed.choice import chosen

TENSORS, CONFIG = stored_tensors(CHECKPOINT), read_config(CHECKPOINT)
LINEARS = decoder_linears(TENSORS, CONFIG)
WEIGHTS = sum(math.prod(linear.shape) for linear in LINEARS.values())
CANDIDATES = "quant.candidates=[W4A16,FP8_DYNAMIC,W8A8]"


@pytest.fixture
def known() -> Sensitivities:
    """Sensitivities that differ, with attention the most sensitive."""
    costs = {}
    for number, name in enumerate(loaded_as_one(LINEARS)):
        base = (10 if "attn" in name else 1) * (1 + number / 100)
        costs[name] = {"W4A16": base, "FP8_DYNAMIC": 0.2 * base, "W8A8": 0.1 * base}
    return Sensitivities(tokens=100, kl=costs)


def sizes(mix: Mix, settings: Settings) -> dict[str, int]:
    formats = {module: group.format for group in mix.groups for module in group.modules}
    rounded = {module: name for module, name in formats.items() if name != UNROUNDED}
    quant = ChosenSettings.of_mix(settings.quant, rounded, tuple(formats.keys() - rounded.keys()))
    return bytes_of(stored(TENSORS, CONFIG, quant))


@pytest.mark.parametrize("bits", [4.2, 4.5, 5, 6.3, 8.1, 12, 16])
def test_average_bits_are_those_of_the_tensors_that_are_stored(
    bits: float, known: Sensitivities, settings: Callable[..., Settings]
) -> None:
    given = settings("quant=mixed", CANDIDATES, f"quant.bits={bits}")
    mix = chosen(given.quant, TENSORS, CONFIG, known)
    taken = sizes(mix, given)
    decoder = sum(size for name, size in taken.items() if ".layers." in name and "norm" not in name)
    assert mix.bits == pytest.approx(8 * decoder / WEIGHTS)
    assert mix.bits <= bits
    assert sum(group.bytes for group in mix.groups) == decoder
    assert mix.kl == pytest.approx(sum(group.kl for group in mix.groups))
    assert mix.budget == f"bits={bits:g}"
    assert {module for group in mix.groups for module in group.modules} == LINEARS.keys()


def test_bytes_go_to_what_is_sensitive(known: Sensitivities, settings: Callable[..., Settings]) -> None:
    mix = chosen(settings("quant=mixed", CANDIDATES, "quant.bits=5.75").quant, TENSORS, CONFIG, known)
    by_format = {group.name: group.format for group in mix.groups}
    assert {by_format[name] for name in by_format if "attn" in name} == {"W8A8"}
    assert "W4A16" in {by_format[name] for name in by_format if "mlp" in name}
    # FP8 takes as much as INT8 and costs more.
    assert "FP8_DYNAMIC" not in by_format.values()


def test_a_size_is_that_of_all_weights(known: Sensitivities, settings: Callable[..., Settings]) -> None:
    given = settings("quant=mixed", CANDIDATES, "quant.bits=null", "quant.size_gb=0.0055")
    mix = chosen(given.quant, TENSORS, CONFIG, known)
    assert 0.98 * 5.5e6 < sum(sizes(mix, given).values()) <= 5.5e6
    assert mix.budget == "size_gb=0.0055"


def test_groups_with_an_ignored_module_stay_in_bf16(known: Sensitivities, settings: Callable[..., Settings]) -> None:
    given = settings("quant=mixed", CANDIDATES, "quant.bits=8", "quant.ignore=[lm_head,'re:.*layers.1.*k_proj']")
    mix = chosen(given.quant, TENSORS, CONFIG, known)
    kept = next(group for group in mix.groups if "model.layers.1.self_attn.k_proj" in group.modules)
    assert (kept.format, kept.kl, len(kept.modules)) == (UNROUNDED, 0, 3)
    assert mix.bits <= 8


def test_a_budget_that_nothing_fits_is_refused_with_the_smallest_one(
    known: Sensitivities, settings: Callable[..., Settings]
) -> None:
    quant = settings("quant=mixed", CANDIDATES, "quant.bits=4").quant
    with pytest.raises(ConfigError, match=r"quant\.bits=4: the smallest mix of .* takes 4\.1\d+ bits of a weight"):
        chosen(quant, TENSORS, CONFIG, known)
