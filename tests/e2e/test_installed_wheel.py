"""The wheel, installed into an environment of its own and run in a folder that knows nothing of the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from pipeline.config import PROJECT_ROOT
from pipeline.hardware.rules import NO_SPEED
from pipeline.stages.report.vega import svg_cache

SOURCES = ("pipeline", "conf", "calibration_data", "requirements", "tools", "tests")
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
# A folder of the checkout, and where the wheel has it.
SHIPPED = {
    "conf": "pipeline/_data/conf",
    "calibration_data": "pipeline/_data/calibration_data",
    "requirements/engines": "pipeline/_data/requirements/engines",
    "pipeline/demo": "pipeline/demo",
    "pipeline/stages/report/renderers/templates": "pipeline/stages/report/renderers/templates",
    "pipeline/stages/publish/templates": "pipeline/stages/publish/templates",
}
ENTRIES = pytest.mark.parametrize("entry", [("quantization-pipeline",), ("python", "-m", "pipeline")], ids=" ".join)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, as setuptools leaves its build folder beside the sources."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copytree(PROJECT_ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(PROJECT_ROOT / name, source / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(built), str(source))
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with the wheel, which borrows the dependencies from this one."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.EnvBuilder(symlinks=True).create(folder)
    pip("--python", str(folder / "bin" / "python"), "install", "--no-deps", "--no-index", str(wheel))
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    # Python reads no .pth of a folder that a .pth names: an editable install of the checkout stays behind.
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "dependencies.pth").write_text("\n".join(sorted(borrowed)))
    return folder / "bin"


def pip(*arguments: str) -> None:
    answer = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def run(
    programs: Path, folder: Path, entry: tuple[str, ...], *arguments: str, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(programs / entry[0]), *entry[1:], *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=folder,
        env={**environment, svg_cache.CACHE: str(folder / "drawings")},
    )


def test_the_wheel_has_all_that_is_read_at_run_time(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"{there}/{path.relative_to(PROJECT_ROOT / here)}"
        for here, there in SHIPPED.items()
        for path in (PROJECT_ROOT / here).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert expected <= held
    assert "pipeline/py.typed" in held
    assert {
        "pipeline/_data/conf/config.yaml",
        "pipeline/_data/calibration_data/demo/calibration.json",
        "pipeline/_data/requirements/engines/autogptq.txt",
        "pipeline/demo/checkpoint/model.safetensors",
    } <= expected


def test_the_wheel_has_nothing_beside_the_package(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"pipeline"}


def test_what_runs_is_the_wheel_and_not_the_checkout(programs: Path, tmp_path: Path) -> None:
    script = "; ".join(
        (
            "import json, pipeline, pipeline.config as c",
            "from pipeline.artifacts.provenance import repository",
            "from pipeline.stages.quantize.isolated.environment import LOCKS",
            "print(json.dumps([pipeline.__file__, str(c.RESOURCES), str(LOCKS), c.PROJECT_ROOT, repository()]))",
        )
    )
    # A repository around the environment is another project's.
    subprocess.run(["git", "init", "-q", str(programs.parents[1])], check=True)
    answer = run(programs, tmp_path, ("python",), "-c", script)
    assert answer.returncode == 0, answer.stderr
    package, resources, locks, root, repository = json.loads(answer.stdout)
    for path in (package, resources, locks):
        assert Path(path).is_relative_to(programs.parent)
    assert Path(locks, "autogptq.txt").is_file()
    assert root is None and repository == {}


@ENTRIES
def test_help_lists_the_choices(programs: Path, tmp_path: Path, entry: tuple[str, ...]) -> None:
    answer = run(programs, tmp_path, entry, "--help")
    assert answer.returncode == 0, answer.stderr
    assert "quant: " in answer.stdout and "fp8_static" in answer.stdout
    assert not list(tmp_path.iterdir())


@ENTRIES
def test_a_dry_run_plans_the_demo_in_the_current_folder(programs: Path, tmp_path: Path, entry: tuple[str, ...]) -> None:
    answer = run(programs, tmp_path, entry, "dry_run=true", "stage=quantize", "variants=[bf16,fp8_static]")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    for step in ("calibrate", "quantize: bf16, fp8_static"):
        assert step in answer.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


@ENTRIES
def test_a_wrong_setting_has_the_exit_code_of_the_command(
    programs: Path, tmp_path: Path, entry: tuple[str, ...]
) -> None:
    answer = run(programs, tmp_path, entry, "dry_run=true", "calibration.num_samples=none")
    assert answer.returncode == 2
    assert "calibration.num_samples" in answer.stderr


def test_a_format_of_the_users_own_lies_in_a_folder_of_theirs(programs: Path, tmp_path: Path) -> None:
    mine = tmp_path / "conf" / "quant" / "w4a16_g64.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("name: w4a16_g64\ntitle: W4A16, groups of 64\nscheme: W4A16\ngroup_size: 64\n")
    arguments = ("--config-dir", "conf", "dry_run=true", "stage=quantize", "quant=w4a16_g64")
    answer = run(programs, tmp_path, ("quantization-pipeline",), *arguments)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "quantize: w4a16_g64" in answer.stderr


@pytest.mark.slow
@pytest.mark.vllm
def test_the_demo_runs_from_the_wheel(programs: Path, tmp_path: Path) -> None:
    small = ("bench.num_prompts=8", "bench.repeats=2", "bench.warmup_prompts=2", "eval.limit=11")
    arguments = ("stage=all", "variants=[bf16,fp8_static]", *small)
    answer = run(programs, tmp_path, ("quantization-pipeline",), *arguments, timeout=1200)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    summary = json.loads(answer.stdout.strip().splitlines()[-1])
    assert {row["variant"] for row in summary["variants"]} == {"bf16", "fp8_static"}
    page = tmp_path / "outputs" / "demo" / "report" / "index.html"
    assert str(programs.parent) not in page.read_text()
    found = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/demo/**/manifest.json")]
    assert len(found) >= 9 and {each["status"] for each in found if each["reason"] != NO_SPEED} == {"ok"}
    assert all(each["provenance"] == {} for each in found)
