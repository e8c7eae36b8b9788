"""The divergence from BF16 in every format of the report, and what becomes of a file that is not as it should be."""

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from support.synthetic_results import STUDY, Run

from pipeline.config import Stage
from pipeline.stages import report

NOISES = {"bf16": 0.0, "int8_dynamic": 0.05, "w4a16": 0.6}
VARIANTS = {name: replace(STUDY[name], divergence=noise) for name, noise in NOISES.items()}


def rows_of(run):
    return json.loads(written(run, "report.json"))["comparison"]["rows"]


def written(run, name):
    return (run.outputs / "tiny" / "report" / name).read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = Run(tmp_path_factory.mktemp("divergence"), VARIANTS)
    report.make(made.jobs, {})
    return made


def test_every_format_shows_the_same_figure(run):
    bf16, int8, w4a16 = rows_of(run)
    assert 0 < int8["divergence"]["kl"]["value"] < w4a16["divergence"]["kl"]["value"]
    # BF16 was asked twice, and this machine gives the same answer to the same question.
    assert bf16["divergence"]["kl"]["value"] == 0
    for row in (int8, w4a16):
        interval = row["divergence"]["kl"]["interval"]
        assert interval["low"] < row["divergence"]["kl"]["value"] < interval["high"]
    page, text = written(run, "index.html"), written(run, "report.md")
    wanted = re.search(r"KL from BF16<small>(10⁻³ )?nats/token ↓", page)
    shown = f"{w4a16['divergence']['kl']['value'] * (1000 if wanted[1] else 1):,.1f}"[:3]
    assert re.search(rf"<b>{shown}[\d.]*</b><span class=\"ends\">[\d.]+ to [\d.]+</span>", page)
    assert f"| {shown}" in text and "baseline |" in text
    assert "KL from" in run.shown.getvalue() and f" {shown}" in run.shown.getvalue()
    table = list(csv.DictReader(io.StringIO(written(run, "report.csv"))))
    long = {
        (flat["variant"], flat["metric"]): flat
        for flat in csv.DictReader(io.StringIO(written(run, "report_long.csv")))
        if flat["value"]
    }
    for flat, row in zip(table[1:], (int8, w4a16), strict=True):
        found, name = row["divergence"], flat["variant"]
        assert float(flat["kl_nats_per_token"]) == pytest.approx(found["kl"]["value"], rel=1e-5)
        assert float(long[name, "top1_agreement"]["low"]) == pytest.approx(
            found["agreement"]["interval"]["low"], rel=1e-5
        )
        assert float(long[name, "perplexity_ratio"]["value"]) == pytest.approx(
            found["perplexity_ratio"]["value"], rel=1e-5
        )
    assert table[0]["kl_nats_per_token"] == "" and float(long["bf16", "perplexity"]["value"]) > 1


def test_the_page_has_the_figures_behind_it(run):
    page = written(run, "index.html")
    assert "KL divergence, agreement and perplexity against BF16" in page
    assert "BF16, repeated" in page and "Last quarter" in page
    tokens = rows_of(run)[1]["divergence"]["tokens"]
    assert f"12 conversations of {tokens:,} tokens in all" in page.replace("<wbr>", "")
    assert "KL divergence from BF16 is least for INT8 dynamic" in page


def test_without_a_measurement_there_is_no_column(tmp_path, capsys):
    run = Run(tmp_path, {name: replace(STUDY[name], divergence=None) for name in ("bf16", "gptq")})
    report.make(run.jobs, {})
    assert rows_of(run)[1]["divergence"] == {"reason": "not measured (eval.divergence=null)"}
    assert "nats/token" not in written(run, "index.html")
    assert "kl_from_bf16" not in written(run, "report_long.csv")


def damage_unlisted(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["divergence.npz"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def damage_truncated(folder):
    path = folder / "divergence.npz"
    path.write_bytes(path.read_bytes()[:2000])


def damage_text(folder):
    (folder / "divergence.npz").write_text("nothing")


def damage_pickle(folder):
    with np.load(folder / "divergence.npz") as arrays:
        found = dict(arrays)
    np.savez(folder / "divergence.npz", **{**found, "token": np.array([print], dtype=object)})


def damage_field(folder):
    with np.load(folder / "divergence.npz") as arrays:
        found = dict(arrays)
    np.savez(folder / "divergence.npz", **{**found, "logprob": found["logprob"] * np.nan})


def damage_tokens(folder):
    with np.load(folder / "divergence.npz") as arrays:
        found = dict(arrays)
    np.savez(folder / "divergence.npz", **{**found, "token": found["token"] + 1})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_unlisted, "no log-probabilities were stored"),
        (damage_truncated, "the log-probabilities cannot be read"),
        (damage_text, "the log-probabilities cannot be read"),
        (damage_pickle, "the log-probabilities cannot be read"),
        (damage_field, "the log-probabilities cannot be read"),
        (damage_tokens, "the tokens differ from BF16's"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_says_so(tmp_path, capsys, damage, reason):
    run = Run(tmp_path, VARIANTS)
    damage(run.job("w4a16").artifact(Stage.EVAL).folder)
    report.make(run.jobs, {})
    rows = rows_of(run)
    assert rows[2]["divergence"] == {"reason": reason} and "kl" in rows[1]["divergence"]
    assert reason in written(run, "index.html").replace("&#39;", "'")
    assert reason in json.loads(capsys.readouterr().out.splitlines()[-1])["variants"][2]["note"]


def test_a_narrow_terminal_shows_it(tmp_path, capsys):
    run = Run(tmp_path, VARIANTS)
    run.console = Console(file=run.shown, width=90, highlight=False)
    report.make(run.jobs, {})
    assert "KL from" in run.shown.getvalue() and "nats" in run.shown.getvalue()
