"""The files of a calibration, written and read: tokens, sketches, ranges.

`sketches.safetensors` holds for each site `<site>.histogram` (groups, BINS), `.channel_range` and `.channel_average`
(channels, 2) and `.extremes` (samples, groups, 2). `ranges.safetensors` holds the ranges by each technique:
`<technique>.<format>.<module>` (2,): minimum and maximum; for keys and values `...heads` (heads, 2) too; and for the
techniques that need no histogram `<technique>.channels.<module>` (channels, 2).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch

from pipeline.config import CalibrationSettings
from pipeline.formats.schemes import CALIBRATED
from pipeline.results.calibration import RANGES, SKETCHES, TOKENS
from pipeline.stages.calibrate.clipping import TECHNIQUES, Observed, clip_point, limits, moving_average
from pipeline.stages.calibrate.observers import ObservedSite

# Metadata of the file of sketches: the site of each module, as JSON.
SITES = "sites"
CONTENTS = ("histogram", "extremes", "channel_range", "channel_average")


def write(
    folder: Path, sequences: list[list[int]], sites: Iterable[ObservedSite], settings: CalibrationSettings
) -> None:
    """Write the three files."""
    from safetensors.torch import save_file

    flat = [token for sequence in sequences for token in sequence]
    lengths = [len(sequence) for sequence in sequences]
    tokens = {"input_ids": flat, "lengths": lengths}
    save_file({name: torch.tensor(values, dtype=torch.int32) for name, values in tokens.items()}, folder / TOKENS)
    tensors: dict[str, torch.Tensor] = {}
    ranges: dict[str, torch.Tensor] = {}
    for site in sites:
        kept = contents(site)
        tensors |= {f"{site.name}.{name}": tensor for name, tensor in kept.items()}
        for module in site.modules or [site.name]:
            ranges |= {name.format(module): value for name, value in _ranges(kept, settings)}
    # One entry: the library writes several in any order, and the same calibration is to be the same bytes.
    sources = json.dumps({module: site.name for site in sites for module in site.modules or [site.name]})
    save_file(tensors, folder / SKETCHES, metadata={SITES: sources})
    save_file(ranges, folder / RANGES)


def contents(site: ObservedSite) -> dict[str, torch.Tensor]:
    """Return the stored tensors of a site, by name in the file of sketches."""
    return {name: getattr(site.sketch, name).cpu().contiguous() for name in CONTENTS}


def _ranges(kept: Mapping[str, torch.Tensor], settings: CalibrationSettings) -> Iterator[tuple[str, torch.Tensor]]:
    """Return the entries of one site in `ranges.safetensors`, with `{}` for the module's name."""
    whole, heads = observed(kept, settings), per_head(kept, settings)
    for technique in TECHNIQUES:
        for name, number in CALIBRATED.items():
            ends = [limits(seen, clip_point(seen, technique, number, settings.percentile)) for seen in (whole, *heads)]
            yield f"{technique}.{name}.{{}}", torch.tensor(ends[0])
            if heads:
                yield f"{technique}.{name}.{{}}.heads", torch.tensor(ends[1:])
    yield "minmax.channels.{}", kept["channel_range"].clone()
    yield "moving_average.channels.{}", kept["channel_average"].clone()


def observed(kept: Mapping[str, torch.Tensor], settings: CalibrationSettings) -> Observed:
    """Return the statistics of a whole tensor, from its entries in the file of sketches."""
    extremes = torch.stack([kept["extremes"][..., 0].amin(1), kept["extremes"][..., 1].amax(1)], dim=1)
    return _observed(extremes, kept["histogram"].sum(0), settings)


def per_head(kept: Mapping[str, torch.Tensor], settings: CalibrationSettings) -> list[Observed]:
    """Return the statistics of each attention head; empty if there are none."""
    heads = kept["histogram"].shape[0]
    if heads == 1:
        return []
    return [_observed(kept["extremes"][:, head], kept["histogram"][head], settings) for head in range(heads)]


def _observed(extremes: torch.Tensor, counts: torch.Tensor, settings: CalibrationSettings) -> Observed:
    pairs = [(low, high) for low, high in extremes.double().tolist()]
    return Observed(
        minimum=min(low for low, _ in pairs),
        maximum=max(high for _, high in pairs),
        average=moving_average(pairs, settings.averaging_constant),
        counts=counts.numpy(),
    )


def read_tokens(folder: Path) -> list[torch.Tensor]:
    """Return the sequences of a calibration, each of shape (1, length), int64."""
    from safetensors.torch import load_file

    tensors = load_file(folder / TOKENS)
    return [part.long()[None] for part in tensors["input_ids"].split(tensors["lengths"].tolist())]


def read_ranges(folder: Path, settings: CalibrationSettings, number: str) -> dict[str, tuple[float, float]]:
    """Return the range of each module's input, and of each layer's `k` and `v`, by the configured technique.

    Args:
        folder: a finished calibration.
        settings: say the technique and its parameters; they need not be those of the time of the calibration.
        number: the format that the range is for, a key of `CALIBRATED`.
    """
    from safetensors import safe_open

    found: dict[str, tuple[float, float]] = {}
    made: dict[str, tuple[float, float]] = {}
    with safe_open(folder / SKETCHES, framework="pt") as file:
        for module, site in json.loads(file.metadata()[SITES]).items():
            if site not in made:
                kept = {name: file.get_tensor(f"{site}.{name}") for name in ("histogram", "extremes")}
                seen = observed(kept, settings)
                made[site] = limits(seen, clip_point(seen, settings.observer, CALIBRATED[number], settings.percentile))
            found[module] = made[site]
    return found


def read_scales(folder: Path, settings: CalibrationSettings, number: str) -> dict[str, float]:
    """Return each range's scale in a symmetric format: max(|minimum|, |maximum|) / largest number."""
    ranges = read_ranges(folder, settings, number)
    return {name: max(abs(low), abs(high)) / CALIBRATED[number].largest for name, (low, high) in ranges.items()}
