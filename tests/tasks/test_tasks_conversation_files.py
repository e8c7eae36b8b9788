"""Files are read in the forms that data sets come in; a fault is named with its line and the way out."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.tasks import conversation_files
from pipeline.tasks.conversation_files import read_rows
from pipeline.tasks.conversations import read_conversations

ROWS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "Hé?"}, {"role": "assistant", "content": "Ja."}]},
    {"messages": [{"role": "user", "content": "Who?"}]},
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
LIST = json.dumps(ROWS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("set.json", LIST.encode()),
        ("set.jsonl", LINES.encode()),
        ("set.JSONL", LINES.encode()),
        ("set.json", LINES.encode()),
        ("set.jsonl", LIST.encode()),
        ("set.json", LIST.encode("utf-8-sig")),
        ("set.jsonl", LINES.encode("utf-8-sig")),
        ("set.json", json.dumps({"version": 1, "data": ROWS, "tags": []}).encode()),
        ("set.json", json.dumps({"train": ROWS}, indent=1).encode()),
        ("set.json.gz", gzip.compress(LIST.encode(), mtime=0)),
        ("set.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
    ],
    ids=["json", "jsonl", "upper", "lines", "list", "bom", "bom-lines", "data", "train", "gz", "gz-lines"],
)
def test_the_rows_are_the_same_in_every_form(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert read_rows(path) == ROWS


def test_parquet_is_read(tmp_path: Path) -> None:
    import datasets

    path = tmp_path / "set.parquet"
    datasets.Dataset.from_list(ROWS).to_parquet(path)
    assert read_rows(path) == ROWS


def test_parquet_with_values_that_python_does_not_have_is_refused(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "set.parquet"
    broken = pyarrow.array([b"\xff\xfe"], pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"prompt": broken}), path)
    with pytest.raises(InputError, match="not a Parquet file"):
        read_rows(path)


def test_parquet_that_unpacks_to_more_than_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "set.parquet"
    parquet.write_table(pyarrow.table({"prompt": ["x" * 1000] * 100_000}), path)
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(conversation_files, "MAX_BYTES", 1 << 20)
    with pytest.raises(InputError, match="holds more than"):
        read_rows(path)


def test_csv_has_a_row_a_line(tmp_path: Path) -> None:
    path = tmp_path / "set.csv"
    path.write_text('prompt,response\n"One,\ntwo?",Three.\n')
    assert read_rows(path) == [{"prompt": "One,\ntwo?", "response": "Three."}]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_one_row_is_no_wrapper(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"set{suffix}"
    path.write_text(json.dumps(ROWS[0]))
    assert read_rows(path) == ROWS[:1]


def test_plain_text_is_one_user_turn_a_line(tmp_path: Path) -> None:
    path = tmp_path / "set.txt"
    path.write_text("one\n\ntwo\n")
    assert [c[0]["content"] for c in read_conversations(path)] == ["one", "two"]


# U+2028 ends a line for str.splitlines() and not in JSON Lines.
@given(texts=st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_any_text_survives_json_lines(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("set") / "set.jsonl"
    rows = [json.dumps({"prompt": text + "\u2028x"}, ensure_ascii=False) for text in texts]
    path.write_text("\n".join(rows), encoding="utf-8", newline="")
    assert [c[0]["content"] for c in read_conversations(path)] == [text + "\u2028x" for text in texts]


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("set.json", b"", "is empty"),
        ("set.json", b"  \n", "is empty"),
        ("set.json", b"[]", "is empty"),
        ("set.json", b"{not json", "not valid JSON: line 1, column 2"),
        ("set.json", b'[\n{"text": "a"},\n{"text" "b"}]', "not valid JSON: line 3, column 9"),
        ("set.jsonl", b'{"text": "a"}\n{"text": "b"}\n{"text": \n', "not valid JSON: line 3"),
        ("set.json", b'{"train": [1], "test": [2]}', r"several lists \(train, test\)"),
        ("set.jsonl", b"\xff\xfea", "not UTF-8"),
        ("set.json.gz", b"[]", "cannot be unpacked"),
        ("set.json.gz", gzip.compress(LIST.encode(), mtime=0)[:-20], "cannot be unpacked"),
        ("set.parquet", b"PAR1", "not a Parquet file"),
    ],
)
def test_an_unusable_file_is_refused_with_the_fault_and_the_way_out(
    tmp_path: Path, name: str, content: bytes, named: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=named) as refused:
        read_rows(path)
    assert refused.value.remedy
