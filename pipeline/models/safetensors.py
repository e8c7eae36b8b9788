"""Files of a checkpoint: its weights by the index, headers of safetensors files, and the small files beside them."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Collection, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TypedDict, TypeGuard

from pipeline.errors import InputError
from pipeline.json_files import FETCH_AGAIN, parse_json, read_json_object

WEIGHTS = ".safetensors"
DTYPE = re.compile(r"(?:B?F|[IUC])(\d+)(?:_E\d+M\d+\w*)?")
# Longest header that the format allows, in bytes.
MAX_HEADER = 100_000_000
# More dimensions than any tensor has, and few enough to be multiplied.
MAX_RANK = 64
MODEL, INDEX = f"model{WEIGHTS}", f"model{WEIGHTS}.index.json"
# The name of a file in the same folder: no path out of it.
SHARD = re.compile(r"[\w][\w.+-]*\.safetensors")
# Weights beside a checkpoint's own: Mistral's second set, and adapters.
OTHER_WEIGHTS = ("consolidated", "adapter_model")


def _any_case(pattern: str) -> str:
    """Return a file pattern that fits in upper and lower case, for `glob` and the hub's client alike."""
    return "".join(f"[{letter.upper()}{letter.lower()}]" if letter.isalpha() else letter for letter in pattern)


# Terms that accompany copies and what derives from them, however their names are written.
TERMS = tuple(map(_any_case, ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "USE_POLICY*")))
# Files of a checkpoint beside its weights and config.json, read by the quantizers, vLLM and lm-eval, or its terms.
COMPANIONS = (
    "generation_config.json",
    "tokenizer*",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template*",
    "*.model",
    "*.tiktoken",
    "tekken.json",
    "*processor*.json",
    "*.py",
    *TERMS,
)


def companions(folder: Path) -> list[Path]:
    """Return a checkpoint's files beside weights and config: tokenizer, template, processor, custom code, terms."""
    return sorted({path for pattern in COMPANIONS for path in folder.glob(pattern) if path.is_file()})


def terms(folder: Path) -> list[Path]:
    """Return the files with a checkpoint's terms: licence, notices, policy of use."""
    return sorted({path for pattern in TERMS for path in folder.glob(pattern) if path.is_file()})


class TensorInfo(TypedDict):
    """Header entry of a tensor: its type by safetensors' name (or llama.cpp's), and the offsets of its bytes."""

    dtype: str
    shape: list[int]
    data_offsets: list[int]


def safetensors_header(path: Path) -> dict[str, TensorInfo]:
    """Return the `dtype`, `shape` and `data_offsets` of every tensor of a safetensors file, without reading any.

    Source: the safetensors format, https://github.com/huggingface/safetensors#format.

    Raises:
        InputError: when the file is none.
    """
    return _header(path)[0]


def _header(path: Path) -> tuple[dict[str, TensorInfo], int]:
    """Return the header of a safetensors file without its metadata, and the offset of the data."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(path.stat().st_size, MAX_HEADER):
                raise ValueError(f"its header would have {length:,} bytes")
            header = parse_json(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        header.pop("__metadata__", None)
        wrong = next((name for name, info in header.items() if not _is_info(info)), None)
        if wrong is not None:
            raise ValueError(f"its header describes {wrong[:100]!r} in another way")
    except (struct.error, ValueError) as error:
        raise InputError(f"{path} is no safetensors file ({error}).", "Fetch the checkpoint again.") from None
    return header, 8 + length


def _is_info(info: object) -> bool:
    """Return whether a header entry has a type, a shape of whole numbers, and the offsets of so many bytes."""
    if not isinstance(info, dict) or not isinstance(info.get("dtype"), str):
        return False
    shape, offsets = info.get("shape"), info.get("data_offsets")
    if not (_are_numbers(shape) and _are_numbers(offsets)) or len(shape) > MAX_RANK:
        return False
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        return False
    bits = _bits_of(info["dtype"])
    return bits is None or 8 * (offsets[1] - offsets[0]) == bits * prod(shape)


def _bits_of(dtype: str) -> int | None:
    """Return the bits of a number by safetensors' name of its type (BF16, F8_E4M3); None for one of another form."""
    found = DTYPE.fullmatch(dtype)
    return 8 if dtype == "BOOL" else int(found[1]) if found else None


def _are_numbers(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)


def read_index(folder: Path) -> dict[str, str] | None:
    """Return the file of each tensor by the index of shards; None if there is no index.

    Raises:
        InputError: when the index cannot be read, or names what is no safetensors file of the folder.
    """
    path = folder / INDEX
    if not path.is_file():
        return None
    found = read_json_object(path).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
        raise InputError(f"{path} is no index of shards: its weight_map names no files.", FETCH_AGAIN)
    strange = next((file for file in found.values() if not SHARD.fullmatch(file)), None)
    if strange is not None:
        raise InputError(
            f"{path} names {strange[:200]!r}, which is no safetensors file of that folder.",
            "Do not use this checkpoint unless you know who made it.",
        )
    return found


def write_index(folder: Path, names: Sequence[str]) -> None:
    """Write the index of the files that hold a checkpoint's weights; loaders need none for one file.

    A file of that name is replaced, also if it is a link to another checkpoint's.
    """
    if len(names) < 2:
        return
    headers = {name: safetensors_header(folder / name) for name in names}
    spans = [info["data_offsets"] for header in headers.values() for info in header.values()]
    weight_map = {tensor: name for name, header in headers.items() for tensor in header}
    index = {"metadata": {"total_size": sum(end - start for start, end in spans)}, "weight_map": weight_map}
    (folder / INDEX).unlink(missing_ok=True)
    (folder / INDEX).write_text(json.dumps(index, indent=2))


def chosen(names: Collection[str], index: Mapping[str, str] | None) -> list[str]:
    """Return the names of the files that hold a checkpoint's weights, out of all its files.

    The index decides, as in vLLM (`filter_duplicate_safetensors_files`), else `model.safetensors`, as in transformers.
    """
    if index is not None:
        return sorted(set(index.values()))
    if MODEL in names:
        return [MODEL]
    return sorted(name for name in names if name.endswith(WEIGHTS) and not name.startswith(OTHER_WEIGHTS))


def safetensors_files(folder: Path) -> list[Path]:
    """Return the safetensors files that hold a checkpoint's weights: no second set, and no stale shard.

    Raises:
        InputError: when a shard that the index names is missing.
    """
    names = chosen([path.name for path in folder.glob(f"*{WEIGHTS}")], read_index(folder))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder / INDEX} names {len(names)} files, and {', '.join(missing[:3])} "
            f"{'is' if len(missing) == 1 else 'are'} not there.",
            f"Fetch {missing[0]} again; or delete the index, if {MODEL} holds all weights.",
        )
    return [folder / name for name in names]


def tensor_files(folder: Path) -> dict[str, Path]:
    """Return the safetensors file of each tensor of a checkpoint."""
    return {name: path for path in safetensors_files(folder) for name in safetensors_header(path)}


def tensor_infos(folder: Path) -> dict[str, TensorInfo]:
    """Return the header entry of each tensor of a checkpoint."""
    return {name: info for path in safetensors_files(folder) for name, info in safetensors_header(path).items()}


def check_safetensors(path: Path) -> None:
    """Compare a safetensors file's length with that implied by its header, whose tensors follow each other.

    Raises:
        InputError: when the file is cut short or has no valid header.
    """
    size = path.stat().st_size
    header, start = _header(path)
    if not header:
        raise InputError(f"{path} is no safetensors file (it names no tensor).", "Fetch the checkpoint again.")
    spans = sorted(info["data_offsets"] for info in header.values())
    if any(first != last for (first, _), (_, last) in zip(spans, [[0, 0], *spans], strict=False)):
        raise InputError(
            f"{path} is no safetensors file (its tensors overlap, or there is something between them).",
            "Fetch the checkpoint again.",
        )
    expected = start + spans[-1][1]
    if size != expected:
        raise InputError(
            f"{path} is truncated: {size:,} bytes, its header promises {expected:,}.",
            "Fetch the checkpoint again.",
        )


def copy_companions(source: Path, target: Path) -> None:
    """Copy the files beside weights and config unchanged, in place of what an engine wrote."""
    for path in companions(target):
        path.unlink()
    for path in companions(source):
        shutil.copyfile(path, target / path.name)
