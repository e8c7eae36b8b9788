"""The section on mixes: the choice by layer, bits against divergence, and what is said of the prediction."""

from __future__ import annotations

import json

import pytest
from support.synthetic_results import STUDY, Run

from pipeline.compare.mixes import ENOUGH, Difference, Mixes, Placed
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.kl_divergence import Estimate
from pipeline.results.mix import GroupChoice, Mix
from pipeline.stages.report.blocks import Picture, Prose, Table, walk
from pipeline.stages.report.build import build
from pipeline.stages.report.document import Report
from pipeline.stages.report.sections import mixes as section
from pipeline.stages.report.sections import page
from pipeline.stages.report.vega.svg import svgs

KINDS = {
    "self_attn.q_proj": "qkv",
    "self_attn.o_proj": "o",
    "mlp.gate_proj": ("gate", "up"),
    "mlp.down_proj": ("down",),
}


def group(layer: int, name: str, scheme: str) -> GroupChoice:
    parent, own = f"model.layers.{layer}.{name.partition('.')[0]}", KINDS[name]
    kl = {"W4A16": 0.004, "W8A8": 0.0002}
    return GroupChoice(
        name=f"model.layers.{layer}.{name}",
        layer=layer,
        modules=tuple(f"{parent}.{each}_proj" for each in own),
        weights=1000,
        format=scheme,
        bytes={"W4A16": 531, "W8A8": 1010, "BF16": 2000}[scheme],
        kl=kl.get(scheme, 0),
        sensitivities=kl,
    )


def mix(bits: float, kl: float) -> Mix:
    schemes = ("W4A16", "W8A8", "BF16", "W4A16")
    groups = [group(layer, name, scheme) for layer in (0, 1) for name, scheme in zip(KINDS, schemes, strict=True)]
    return Mix(budget=f"bits={bits:g}", bits=bits, kl=kl, tokens=1000, groups=tuple(groups))


def kl(value: float) -> Estimate:
    return Estimate(value=value, interval=Interval(low=0.8 * value, high=1.3 * value))


def known(**changed: object) -> Mixes:
    found = Mixes(
        choices={"mixed": mix(5, 0.03), "mixed(bits=6)": mix(6, 0.01)},
        labels={"mixed": "Mixed", "mixed(bits=6)": "Mixed, bits=6"},
        placed=(
            Placed(name="w4a16", label="W4A16", bits=4.25, kl=kl(0.05)),
            Placed(name="mixed", label="Mixed", bits=4.9, kl=kl(0.02), predicted=0.03),
            Placed(name="mixed(bits=6)", label="Mixed, bits=6", bits=5.9, kl=kl(0.008), predicted=0.01),
            Placed(name="int8_dynamic", label="INT8 dynamic", bits=8.05, kl=kl(0.001)),
        ),
        differences=(
            Difference(mix="mixed", other="w4a16", value=-0.03, interval=Interval(low=-0.04, high=-0.02)),
            Difference(mix="mixed(bits=6)", other="w4a16", value=-0.042, interval=Interval(low=-0.05, high=-0.03)),
        ),
        correlation=None,
    )
    return found.model_copy(update=changed)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Report:
    run = Run(tmp_path_factory.mktemp("mixes"), {name: STUDY[name] for name in ("bf16", "w4a16")})
    return build(run.jobs, {})


def shown(plain: Report, found: Mixes) -> list:
    return list(walk(section.section(plain.model_copy(update={"mixes": found})).blocks))


def test_a_report_without_mixes_has_no_such_section(plain: Report) -> None:
    assert plain.mixes is None
    assert "mixes" not in {each.key for each in page(plain).sections}


def test_each_mix_has_its_prediction_beside_the_measurement(plain: Report) -> None:
    tables = {block.caption: block for block in shown(plain, known()) if isinstance(block, Table)}
    rows = tables["Mixes of formats"].rows
    assert rows[0] == ("Mixed", "bits=5", "5.00", "0.0300", "0.0200", "0.0160 to 0.0260")
    against = tables["Mixes against formats that are not larger"].rows
    assert against[0][:2] == ("Mixed", "W4A16") and against[0][-1] == "less"
    unmeasured = known(placed=known().placed[:1], differences=())
    rows = next(b for b in shown(plain, unmeasured) if isinstance(b, Table) and b.caption == "Mixes of formats").rows
    assert rows[0][-2:] == ("not measured", "")


def test_the_choice_is_a_picture_with_every_group(plain: Report) -> None:
    pictures = {block.chart.name: block for block in shown(plain, known()) if isinstance(block, Picture)}
    assert list(pictures) == ["bits-divergence", "mix-0", "mix-1"]
    drawn = pictures["mix-0"].chart.specs["wide"]
    assert [(row["layer"], row["kind"]) for row in drawn["data"]["values"]][:4] == [
        (0, "q, k, v"),
        (0, "o"),
        (0, "gate, up"),
        (0, "down"),
    ]
    colours = {row["color"] for row in drawn["data"]["values"]}
    assert len(colours) == 3, "each format has a colour of its own"
    (table,) = pictures["mix-0"].figures
    assert table.rows[0] == ("model.layers.0.self_attn.q_proj", "0", "W4A16", "4.25", "0.00400", "0.00020")
    assert "W8A8" in pictures["mix-0"].chart.key
    points = pictures["bits-divergence"].chart.specs["wide"]["data"]["values"]
    # Mixes are told by their mark; what all have in common is named.
    assert [row["label"] for row in points] == ["W4A16", "", "", "INT8 dynamic"]
    assert all("<svg" in drawing for drawing in svgs([each.chart for each in pictures.values()]).values())


def test_what_is_said_of_the_prediction(plain: Report) -> None:
    def said(found: Mixes) -> str:
        return next(b.text for b in shown(plain, found) if isinstance(b, Prose) and b.text.startswith(("Over", "Pred")))

    assert said(known()) == (
        f"Predicted and measured divergence can be correlated from {ENOUGH} mixes on; measured here: 2. No mix is "
        "shown to be off the frontier of bits and divergence."
    )
    assert said(known(correlation=0.967)).startswith("Over 2 mixes, the rank correlation of predicted and measured")
    worse = Difference(mix="mixed", other="w4a16", value=0.03, interval=Interval(low=0.02, high=0.04))
    assert said(known(differences=(worse,))).endswith("a format that is not larger diverges less: Mixed.")


def test_the_report_as_data_reads_back(plain: Report) -> None:
    report = plain.model_copy(update={"mixes": known()})
    assert Report.model_validate(json.loads(report.model_dump_json())).mixes == known()
