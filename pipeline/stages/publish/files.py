"""The files of a checkpoint that are published: by name, and not whatever lies in its folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import StageError
from pipeline.json_files import read_json_object
from pipeline.models.architecture import CONFIG
from pipeline.models.contents import QUANTIZATION_FILES
from pipeline.models.safetensors import INDEX, companions, safetensors_files, terms

CARD = "README.md"
CODE = ".py"
# An import of a module in the same folder, as transformers looks for them.
RELATIVE = re.compile(r"^\s*(?:from|import)\s+\.(\w+)", re.MULTILINE)
# Files that name the classes of a checkpoint's own code.
NAMING_CODE = (CONFIG, "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


def published(checkpoint: Path, sources: Sequence[Path]) -> list[Path]:
    """Return the files of a checkpoint that are published: weights, config, tokenizer, its code, and the terms.

    Args:
        checkpoint: the quantized checkpoint.
        sources: folders of the BF16 checkpoint, whose terms accompany what derives from it.

    Raises:
        StageError: if a file other than weights is a link to a place outside its folder.
        InputError: if a config cannot be read.
    """
    code = _code(checkpoint)
    settings = [checkpoint / name for name in (CONFIG, INDEX, *QUANTIZATION_FILES)]
    weights = [*checkpoint.glob("*.gguf")] or safetensors_files(checkpoint)
    small = [path for path in companions(checkpoint) if path.suffix != CODE or path.name in code]
    found = {path.name: path for source in reversed(sources) for path in terms(source)}
    found |= {path.name: path for path in (*small, *settings) if path.is_file()}
    for name, path in found.items():
        for place in (path, *(source / name for source in sources)):
            _check_within(place, (checkpoint, *sources))
    found |= {path.name: path for path in weights}
    return [found[name] for name in sorted(found) if name != CARD]


def _code(folder: Path) -> set[str]:
    """Return the names of the modules that a checkpoint's configs name, and of those that these import beside them."""
    named: set[str] = set()
    for path in (folder / name for name in NAMING_CODE):
        classes = (read_json_object(path) if path.is_file() else {}).get("auto_map")
        for value in classes.values() if isinstance(classes, dict) else ():
            for each in value if isinstance(value, list) else [value]:
                # Of another repository it is `<owner>/<name>--<module>.<class>`.
                if isinstance(each, str) and "--" not in each:
                    named.add(f"{each.partition('.')[0]}{CODE}")
    found: set[str] = set()
    while named:
        name = named.pop()
        if "/" not in name and name not in found and (folder / name).is_file():
            found.add(name)
            text = (folder / name).read_text(encoding="utf-8", errors="replace")
            named |= {f"{module}{CODE}" for module in RELATIVE.findall(text)}
    return found


def _check_within(path: Path, folders: Sequence[Path]) -> None:
    """Refuse a link that leaves the folders of the model, or the hub's own blobs beside its snapshots.

    Raises:
        StageError: naming the file and its target.
    """
    target, roots = path.resolve(), [folder.resolve() for folder in folders]
    if target.parent not in (*roots, *(root.parent.parent / "blobs" for root in roots)):
        raise StageError(
            f"publish: {path.name} is a link to {target}, outside of the model's folder, and would be uploaded.",
            "Put a copy of the file in the place of the link, if it is meant to be public.",
        )
