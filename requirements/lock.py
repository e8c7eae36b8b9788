"""Write the locked environments from `pyproject.toml`: run it as `make lock`, or `make lock ARGS=--upgrade`.

The locks are complete: pip installs them with `--no-deps --require-hashes`, which applies the overrides of
`overrides.txt` even with plain pip. Two facts shape the CPU side:

* PyTorch publishes its CPU build (`2.13.0+cpu`) on its own index; the package index has the CUDA build only. So
  `torch-cpu.txt` is tried first, and `cpu.txt` supplies the package index's build if that one is unavailable.
* The CUDA build does not import without NVIDIA's libraries, so they are locked separately, in `torch-cuda.txt`,
  and installed only with that build.

An engine that conflicts with the others has its own lock, made from `engines/<name>.in`. It leaves out torch
and NVIDIA's libraries: its environment links the project's build
(pipeline/stages/quantize/isolated/environment.py).
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
# The CPU build's wheels that were installed and tested; add a line for another Python once tested there.
TORCH_CPU = "2.13.0+cpu"
TORCH_CPU_HASHES = {
    "cp311": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
}
CUDA_LIBRARY = re.compile(r"^(nvidia-(?!ml-py)|cuda-|triton==)")
ENGINES = HERE / "engines"
HEADER = "# Made by `make lock` from {}; do not edit.\n"


def compile_lock(*sources: str, kept: tuple[Path, ...] = ()) -> list[str]:
    """Resolve requirements against the package index for Python 3.11; return one block of text per package.

    Versions pinned by the locks in `kept` stay if they still fit, unless `--upgrade` is given.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "lock.txt"
        if "--upgrade" not in sys.argv:
            output.write_text("".join(path.read_text() for path in kept if path.is_file()))
        environment = {k: v for k, v in os.environ.items() if not k.endswith("FIND_LINKS")}
        command = [
            *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", *sources),
            *("--python-version", "3.11", "--generate-hashes", "--no-header"),
            *("--no-annotate", "--no-emit-index-url", "--output-file", str(output)),
        ]
        subprocess.run(command, check=True, cwd=HERE.parent, env=environment)
        return re.split(r"\n(?=\S)", output.read_text().strip())


def compile_project(extra: str, *kept: str) -> list[str]:
    """Resolve `pyproject.toml[extra,dev]`."""
    overrides = [HERE / "overrides.txt", *HERE.glob(f"overrides-{extra}.txt")]
    options = [part for path in overrides for part in ("--override", str(path))]
    locks = tuple(HERE / name for name in kept)
    return compile_lock("pyproject.toml", "--extra", extra, "--extra", "dev", *options, "--universal", kept=locks)


def compile_engine(source: Path) -> list[str]:
    """Resolve an engine's own environment, without the packages linked from the project's."""
    kept = (source.with_suffix(".txt"),)
    blocks = compile_lock(str(source), "--python-platform", "x86_64-manylinux_2_28", kept=kept)
    return [block for block in blocks if not CUDA_LIBRARY.match(block) and not block.startswith("torch==")]


def main() -> None:
    """Write the four locks beside this file, and one for each separate engine."""
    cpu = compile_project("cpu", "cpu.txt", "torch-cuda.txt")
    libraries = [block for block in cpu if CUDA_LIBRARY.match(block)]
    hashes = [f"    --hash=sha256:{value}" for value in TORCH_CPU_HASHES.values()]
    for name, blocks in {
        "torch-cpu.txt": [" \\\n".join([f"torch=={TORCH_CPU}", *hashes])],
        "cpu.txt": [block for block in cpu if block not in libraries],
        "torch-cuda.txt": libraries,
        "cuda.txt": compile_project("cuda", "cuda.txt"),
    }.items():
        (HERE / name).write_text(HEADER.format("pyproject.toml") + "\n".join(blocks) + "\n")
    for source in sorted(ENGINES.glob("*.in")):
        lines = [HEADER.format(source.name), *(f"{block}\n" for block in compile_engine(source))]
        source.with_suffix(".txt").write_text("".join(lines))


if __name__ == "__main__":
    main()
