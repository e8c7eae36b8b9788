"""Render the reports of `docs/results/` again, from the stored manifests, by the project's own `stage=report`.

A stored folder is `<machine>/<variant>/<protocol>/manifest.json` with `<variant>/quantize.json`; it is laid out as
`outputs/` for the command, whose page and Markdown become the `report.html` and `report.md` of the machine. Qwen3-8B's
own configuration and tokenizer come from the folder of test data (PIPELINE_DATA_DIR), laid out as the hub's cache, so
that the commands on the page name the model as a user does. A folder of scores has its model's configuration, and its
report is stored as `report.json`, too (`tools/stored_scores.py`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.artifacts.manifest import MANIFEST, Manifest
from pipeline.config.presets import model_choice
from tools import stored_scores
from tools.stored_results import FOLDER

RENDERED = {"report.md": "report.md", "index.html": "report.html", "report.json": "report.json"}
PROJECT = FOLDER.parents[1]
DATA = Path(os.environ.get("PIPELINE_DATA_DIR") or PROJECT.parent / "shared" / "data") / "qwen3"
# `report.recorded` shows what other machines measured.
SETTINGS = ("stage=report", "report.recorded=true")
# The results' own model and protocol.
OF_MODEL = {
    "demo": ("experiment=study", "report.objective=size"),
    "qwen3_8b": ("model=qwen3_8b", "model.weights=random", "bench=study"),
    # Without its weights the sizes of formats with groups cannot be checked: the baseline has none.
    "smollm2": ("model.path=SmolLM2-135M-Instruct", "model.name=smollm2", "quant=bf16", "bench=study", "eval=study"),
}


def main() -> None:
    """Write the reports of all folders that have manifests and a report."""
    if not DATA.is_dir():
        print(f"results: reports are as they were, since {DATA} is not there")
        return
    for folder in sorted(path.parent for path in FOLDER.glob("*/report.md")):
        if stored := list(_manifests(folder)):
            changed = _render(folder, stored)
            print(f"results/{folder.name}: {'written' if changed else 'unchanged'}")


def _manifests(folder: Path) -> Iterator[tuple[Path, Manifest]]:
    for pattern in (f"calibrate/{MANIFEST}", f"*/*/{MANIFEST}", "*/quantize.json"):
        for path in sorted(folder.glob(pattern)):
            yield path, Manifest.model_validate_json(path.read_text(encoding="utf-8"))


def _render(folder: Path, stored: list[tuple[Path, Manifest]]) -> bool:
    """Render one folder; return whether a file changed."""
    wanted = {there: here for here, there in RENDERED.items() if (folder / there).is_file()}
    model = stored[0][1].model
    with tempfile.TemporaryDirectory() as root:
        outputs = Path(root) / "outputs"
        for path, manifest in stored:
            place = outputs / manifest.model / (manifest.variant or "") / f"{manifest.stage}-{manifest.key[:8]}"
            if path.name == MANIFEST:
                shutil.copytree(path.parent, place)
            else:
                place.mkdir(parents=True)
                shutil.copy(path, place / MANIFEST)
            if (place / stored_scores.SCORES).is_file():
                stored_scores.unpack(folder, place)
        _lay_out_model(folder, Path(root))
        blocks = 1 + max(int(str(manifest.payload.get("block", 0))) for _, manifest in stored)
        formats = ",".join(Path(each).suffix[1:] for each in wanted)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pipeline", *SETTINGS, *OF_MODEL[model]),
                *(f"report.formats=[{formats}]", f"bench.blocks={blocks}"),
            ],
            cwd=root,
            env={**os.environ, "HF_HUB_CACHE": str(Path(root, "hub")), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"results/{folder.name}: {done.stderr.strip()}")
        made = outputs / model / "report"
        # Commands of the page name the model's folder, which is gone with this one or differs between clones.
        texts = {
            there: (made / here).read_text(encoding="utf-8").replace(f"{root}/", "").replace(f"{PROJECT}/", "")
            for there, here in wanted.items()
        }
    changed = {name for name, text in texts.items() if (folder / name).read_text(encoding="utf-8") != text}
    for name in changed:
        (folder / name).write_text(texts[name], encoding="utf-8")
    return bool(changed)


def _lay_out_model(folder: Path, root: Path) -> None:
    """Write the model's configuration where the settings look for it."""
    if (own := folder / stored_scores.MODEL).is_dir():
        shutil.copytree(own, root / "SmolLM2-135M-Instruct")
        return
    model = Path(root, "hub", "models--Qwen--Qwen3-8B", "snapshots", str(model_choice("qwen3_8b")["revision"]))
    shutil.copytree(DATA, model, ignore=shutil.ignore_patterns("config.*"))
    shutil.copy(DATA / "config.qwen3-8b.json", model / "config.json")


if __name__ == "__main__":
    main()
