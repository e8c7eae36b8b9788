"""Summaries of calibrations: what is derived from them, and the reasons why one is not read."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.synthetic_calibration import summary

from pipeline.results.base import Missing
from pipeline.results.calibration import ExpertLayer, Histogram, Lengths, Site, Summary, observations_key, read_summary


def experts(*tokens: int, since: tuple[int | None, ...] = ()) -> ExpertLayer:
    return ExpertLayer(name="layer", layer=0, tokens=tokens, since=since)


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ((1, 2), "none"),
        ((0, 2), "0"),
        ((0, 0), "0-1"),
        ((1, 0, 5, 0, 0, 0, 9, 0), "1, 3-5, 7"),
        ((0, 0, 0, 0), "0-3"),
        ((0, 1, 0, 1, 0), "0, 2, 4"),
    ],
)
def test_runs_of_experts_without_tokens_are_shortened(tokens: tuple[int, ...], text: str) -> None:
    assert experts(*tokens).unrouted_text == text


def test_experts_are_counted_by_their_tokens() -> None:
    layer = experts(5, 0, 1, 9, since=(0, None, 3, 2))
    assert (layer.median, layer.unrouted) == (3.0, (1,))
    assert [layer.unrouted_in(samples) for samples in (1, 2, 3, 4, 99)] == [(1, 2, 3), (1, 2, 3), (1, 2), (1,), (1,)]


def test_the_largest_magnitude_of_a_site_may_be_below_zero() -> None:
    rest: dict[str, Any] = {"name": "x", "layer": 0, "kind": "K", "clip": {}, "outlier_ratio": 1.0}
    rest |= {"convergence": {}, "stable_after": {}}
    assert Site(minimum=-3.0, maximum=2.0, **rest).largest == 3.0
    assert Site(minimum=-1.0, maximum=2.0, **rest).largest == 2.0


def test_a_histogram_has_one_edge_more_than_bins() -> None:
    assert Histogram(site="x", edges=(0, 1, 2), counts=(3, 4)).zeros == 0
    for edges in ((0, 1), (0, 1, 2, 3)):
        with pytest.raises(ValueError, match=f"2 bins need one edge more, not {len(edges)}"):
            Histogram(site="x", edges=edges, counts=(3, 4))
        with pytest.raises(ValueError, match="2 bins need one edge more"):
            Lengths(min=1, median=1, mean=1, max=1, edges=edges, counts=(3, 4))
    assert Lengths(min=1, median=1, mean=1, max=1, edges=(0, 1)).counts == ()


def test_a_curve_has_one_value_for_each_number_of_samples() -> None:
    content = summary(1)
    assert Summary.model_validate(content).sites
    name = content["sites"][-1]["name"]
    curve = next(iter(content["sites"][-1]["convergence"].values()))
    curve.pop()
    with pytest.raises(ValueError, match=rf"the convergence of {name} is not one value for each of samples_at"):
        Summary.model_validate(content)


def refused(folder: Path, content: bytes) -> str:
    (folder / "summary.json").write_bytes(content)
    found = read_summary(folder)
    assert isinstance(found, Missing)
    return found.reason


def test_a_summary_that_cannot_be_read_has_its_reason(tmp_path: Path) -> None:
    missing = read_summary(tmp_path)
    assert isinstance(missing, Missing) and missing.reason.endswith("it was made by an earlier release")
    assert refused(tmp_path, b"\xff{") == "summary.json of this calibration cannot be read"
    assert refused(tmp_path, b"[]") == "summary.json has schema version None, this release reads 1"
    content = summary(1)
    other = json.dumps(content | {"schema_version": 2}).encode()
    assert refused(tmp_path, other) == "summary.json has schema version 2, this release reads 1"
    without = json.dumps({name: value for name, value in content.items() if name != "dtype"}).encode()
    assert refused(tmp_path, without) == "summary.json of this calibration cannot be read (dtype: Field required)"
    spoiled = json.dumps(content | {"sites": [{"name": "a"}]}).encode()
    assert refused(tmp_path, spoiled).endswith("cannot be read (sites.0.layer: Field required)")
    (tmp_path / "summary.json").write_text(json.dumps(content | {"later": 1}))
    assert read_summary(tmp_path) == Summary.model_validate(content)


def test_another_evaluation_to_compare_with_leaves_the_observations_alone() -> None:
    one = observations_key({"samples": 4, "checked_against": ["mmlu"]})
    assert one == observations_key({"samples": 4, "checked_against": []}) == observations_key({"samples": 4})
    assert one != observations_key({"samples": 5})
