"""Reading shards: every type that holds text, in bounded memory, and a clear word where a file cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from docmill.data import storage
from docmill.data.errors import ShardCorrupt, ShardSchemaError, StorageNotFound
from docmill.data.records import Document, Shard
from docmill.data.shards import DocumentBatch, ShardReader

WriteShard = Callable[..., Shard]
NOT_UTF8 = b"gr\xfc\xdfe"  # "grüße" in Latin-1


def read(shard: Shard, carry: list[str] | None = None, **options: Any) -> list[DocumentBatch]:
    with ShardReader(shard, id_column="doc_id", text_column="text", carry=carry or [], **options) as reader:
        return list(reader)


def documents(shard: Shard, **options: Any) -> list[Document]:
    return [document for batch in read(shard, **options) for document in batch.documents]


def strings_that_are_not_utf8(*values: bytes | None) -> pa.Array:
    """A string array as other writers make it: Arrow does not check."""
    return pa.Array.from_buffers(pa.string(), len(values), pa.array(values, pa.binary()).buffers())


def overwrite_page_of_last_row_group(path: Path) -> None:
    column = pq.ParquetFile(path).metadata.row_group(pq.ParquetFile(path).num_row_groups - 1).column(1)
    content = bytearray(path.read_bytes())
    offset = column.dictionary_page_offset or column.data_page_offset
    content[offset : offset + 60] = b"\xff" * 60
    path.write_bytes(content)


def test_rows_come_in_order_across_row_groups_and_batches(write_shard: WriteShard) -> None:
    shard = write_shard({"doc_id": [f"d{i}" for i in range(10)], "text": [f"t{i}" for i in range(10)]},
                        row_group_size=4)  # fmt: skip
    batches = read(shard, max_batch_rows=3)
    assert [len(batch.documents) for batch in batches] == [3, 1, 3, 1, 2]
    assert [batch.first_row for batch in batches] == [0, 3, 4, 7, 8]
    assert [document for batch in batches for document in batch.documents] == [
        Document(f"d{i}", f"t{i}", i) for i in range(10)
    ]
    assert all(batch.carried.num_rows == len(batch.documents) for batch in batches)


def test_size_and_carried_schema_are_known_on_opening(write_shard: WriteShard) -> None:
    shard = write_shard({"n": [1, 2], "text": ["a", "b"], "doc_id": ["x", "y"], "lang": ["de", None]})
    with ShardReader(shard, id_column="doc_id", text_column="text", carry=["lang", "n"]) as reader:
        assert reader.num_rows == 2
        assert reader.carried_schema.names == ["doc_id", "lang", "n"]
        assert reader.carried_schema.field("n").type == pa.int64()


def test_only_the_named_columns_are_carried(write_shard: WriteShard) -> None:
    shard = write_shard({"doc_id": ["x"], "text": ["a"], "lang": ["de"], "other": [b"\xff"]})
    (batch,) = read(shard, carry=["lang"])
    assert batch.carried.to_pylist() == [{"doc_id": "x", "lang": "de"}]


def test_the_text_itself_and_the_id_may_be_carried(write_shard: WriteShard) -> None:
    (batch,) = read(write_shard({"doc_id": ["x"], "text": ["a"]}), carry=["text", "doc_id"])
    assert batch.carried.to_pylist() == [{"doc_id": "x", "text": "a"}]


@pytest.mark.parametrize(
    "type_",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_string()),
    ],
    ids=str,
)
def test_text_of_any_type_that_holds_it_comes_out_as_str(write_shard: WriteShard, type_: pa.DataType) -> None:
    texts = ["grüße", None, "", "你好", "grüße"]
    column = pa.array([text and text.encode() for text in texts], pa.binary()).cast(pa.string()).cast(type_)
    shard = write_shard({"doc_id": list("abcde"), "text": column})
    assert [document.text for document in documents(shard)] == texts


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, -2, None], pa.int64()), ["1", "-2", None]),
        (pa.array([1, 255, None], pa.uint8()), ["1", "255", None]),
        (pa.array([2**64 - 1, 0, None], pa.uint64()), ["18446744073709551615", "0", None]),
        (pa.array(["a", "b", None], pa.large_string()), ["a", "b", None]),
        (pa.array(["a", "a", None]).dictionary_encode(), ["a", "a", None]),
    ],
    ids=["int64", "uint8", "uint64", "large_string", "dictionary"],
)
def test_ids_of_any_type_come_out_as_str_and_are_carried_as_they_were(
    write_shard: WriteShard, column: pa.Array, expected: list[str | None]
) -> None:
    (batch,) = read(write_shard({"doc_id": column, "text": ["", "", ""]}))
    assert [document.doc_id for document in batch.documents] == expected
    assert batch.carried.column("doc_id").to_pylist() == column.to_pylist()


def test_bytes_that_are_not_utf8_are_replaced_in_their_row_alone(write_shard: WriteShard) -> None:
    text = strings_that_are_not_utf8(b"fine", NOT_UTF8, None, b"cut \xe4\xb8", b"\xed\xa0\xbd", b"nul\x00nul")
    shard = write_shard({"doc_id": list("abcdef"), "text": text})
    assert [document.text for document in documents(shard)] == [
        "fine",
        "gr\ufffd\ufffde",
        None,
        "cut \ufffd",
        "\ufffd\ufffd\ufffd",
        "nul\x00nul",
    ]


@pytest.mark.parametrize("kind", ["string", "large_string", "list", "map", "struct"])
def test_a_carried_column_that_is_not_utf8_is_made_readable_for_everybody(
    write_shard: WriteShard, tmp_path: Path, kind: str
) -> None:
    bad = strings_that_are_not_utf8(b"fine", NOT_UTF8, None)
    column = {
        "string": lambda: bad,
        "large_string": lambda: pa.Array.from_buffers(
            pa.large_string(), 3, bad.cast(pa.binary()).cast(pa.large_binary()).buffers()
        ),
        "list": lambda: pa.ListArray.from_arrays(pa.array([0, 1, 2, 3]), bad),
        "map": lambda: pa.MapArray.from_arrays(pa.array([0, 1, 2, 3]), pa.array(["x", "y", "z"]), bad),
        "struct": lambda: pa.StructArray.from_arrays([bad, pa.array([1, 2, 3])], ["name", "n"]),
    }[kind]()
    shard = write_shard({"doc_id": list("abc"), "text": ["", "", ""], "lang": column, "n": [1, 2, 3]})
    batch = read(shard, carry=["lang", "n"])[0].carried

    batch.validate(full=True)
    assert batch.schema.field("lang").type == pq.read_schema(tmp_path / "a.parquet").field("lang").type
    values = batch.column("lang").to_pylist()
    expected = ["fine", "gr\ufffd\ufffde", None]
    match kind:
        case "list":
            assert values == [[value] for value in expected]
        case "map":
            assert values == [[(key, value)] for key, value in zip("xyz", expected, strict=True)]
        case "struct":
            assert values == [{"name": value, "n": n} for value, n in zip(expected, [1, 2, 3], strict=True)]
        case _:
            assert values == expected
    assert batch.column("n").to_pylist() == [1, 2, 3]
    pl.from_arrow(batch)  # Polars reads all of a file or nothing


def test_an_id_that_is_not_utf8_is_replaced_in_both_places(write_shard: WriteShard) -> None:
    (batch,) = read(write_shard({"doc_id": strings_that_are_not_utf8(b"a", NOT_UTF8), "text": ["", ""]}))
    assert [document.doc_id for document in batch.documents] == ["a", "gr\ufffd\ufffde"]
    assert batch.carried.column("doc_id").to_pylist() == ["a", "gr\ufffd\ufffde"]


def test_batches_are_bounded_by_the_bytes_of_their_text(write_shard: WriteShard) -> None:
    shard = write_shard(
        {"doc_id": [str(i) for i in range(100)], "text": [f"{i:05}" * 2000 for i in range(100)]}
    )
    batches = read(shard, max_batch_bytes=50_000)
    assert max(sum(len(document.text or "") for document in batch.documents) for batch in batches) <= 50_000
    assert [document.row for batch in batches for document in batch.documents] == list(range(100))


@pytest.mark.parametrize(
    "texts",
    [["x"] * 900 + ["y" * 10_000] * 100, ["same " * 2_000] * 1000],
    ids=["long rows among short ones", "a repeated text, which Parquet stores once"],
)
def test_the_bound_holds_where_the_row_groups_average_says_otherwise(
    write_shard: WriteShard, texts: list[str]
) -> None:
    shard = write_shard({"doc_id": [str(i) for i in range(1000)], "text": texts})
    batches = read(shard, max_batch_bytes=50_000)
    assert max(sum(len(document.text or "") for document in batch.documents) for batch in batches) <= 50_000
    assert [document.text for batch in batches for document in batch.documents] == texts
    assert [document.row for batch in batches for document in batch.documents] == list(range(1000))
    assert [id_ for batch in batches for id_ in batch.carried.column(0).to_pylist()] == [
        str(i) for i in range(1000)
    ]


def test_a_row_larger_than_the_bound_is_a_batch_of_its_own(write_shard: WriteShard) -> None:
    shard = write_shard({"doc_id": ["a", "b", "c"], "text": ["x", "y" * 1000, "z"]})
    assert [len(batch.documents) for batch in read(shard, max_batch_bytes=100)] == [1, 1, 1]


@pytest.mark.parametrize("columns", [{"doc_id": ["a"]}, {"text": ["a"]}, {"doc_id": ["a"], "text": ["a"]}])
def test_missing_columns_are_named_with_those_that_are_there(
    write_shard: WriteShard, columns: dict[str, list[str]]
) -> None:
    shard = write_shard(columns)
    absent = {"doc_id", "text", "lang"} - set(columns)
    with pytest.raises(ShardSchemaError) as caught:
        read(shard, carry=["lang"])
    assert caught.value.shard_uri == shard.uri
    for name in absent | set(columns):
        assert repr(name) in str(caught.value)


def test_a_column_that_stands_twice_is_refused(write_shard: WriteShard) -> None:
    table = pa.table([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], names=["doc_id", "text", "text"])
    with pytest.raises(ShardSchemaError, match="'text' .*more than once"):
        read(write_shard(table))


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pa.array([1.5]), "double"),
        (pa.array([["a"]]), "list"),
        (pa.array([7]), "int64"),
        (pa.array([None], pa.null()), "null"),
    ],
)
def test_a_text_column_that_holds_no_text_is_refused(
    write_shard: WriteShard, column: pa.Array, said: str
) -> None:
    with pytest.raises(ShardSchemaError, match=f"text column 'text' must hold strings.*{said}"):
        read(write_shard({"doc_id": ["a"], "text": column}))


@pytest.mark.parametrize("column", [pa.array([1.5]), pa.array([True]), pa.array([b"\x00"])], ids=str)
def test_an_id_column_of_another_type_is_refused(write_shard: WriteShard, column: pa.Array) -> None:
    with pytest.raises(ShardSchemaError, match="id column 'doc_id' must hold strings or integers"):
        read(write_shard({"doc_id": column, "text": ["a"]}))


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"not parquet at all" * 100, b"PAR1" + b"\xff" * 100 + b"PAR1"]
)
def test_a_file_that_is_no_parquet_is_corrupt(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    (shard,) = storage.list_shards(str(tmp_path))
    with pytest.raises(ShardCorrupt, match="not readable as Parquet") as caught:
        read(shard)
    assert caught.value.shard_uri == shard.uri


def test_a_file_cut_off_at_its_end_is_corrupt(write_shard: WriteShard, tmp_path: Path) -> None:
    shard = write_shard({"doc_id": ["a"] * 100, "text": ["b"] * 100})
    path = tmp_path / "a.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ShardCorrupt):
        read(shard)


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
@pytest.mark.parametrize("use_dictionary", [True, False])
def test_damage_in_a_later_row_group_is_found_on_reaching_it(
    write_shard: WriteShard, tmp_path: Path, compression: str, use_dictionary: bool
) -> None:
    shard = write_shard({"doc_id": [str(i) for i in range(300)], "text": [f"text {i} " * 9 for i in range(300)]},
                        row_group_size=100, compression=compression, use_dictionary=use_dictionary)  # fmt: skip
    overwrite_page_of_last_row_group(tmp_path / "a.parquet")
    with ShardReader(shard, id_column="doc_id", text_column="text", carry=[]) as reader:
        batches = iter(reader)
        assert sum(len(next(batches).documents) for _ in range(2)) == 200
        with pytest.raises(ShardCorrupt, match="not readable as Parquet"):
            list(batches)


def test_an_absent_file_is_the_stores_error_and_not_the_shards(tmp_path: Path) -> None:
    with pytest.raises(StorageNotFound):
        read(Shard("a.parquet", str(tmp_path / "a.parquet"), 1, "1"))


def test_an_empty_shard_has_a_schema_and_no_batch(write_shard: WriteShard) -> None:
    shard = write_shard(pa.table({"doc_id": pa.array([], pa.int32()), "text": pa.array([], pa.string())}))
    with ShardReader(shard, id_column="doc_id", text_column="text", carry=[]) as reader:
        assert (reader.num_rows, list(reader)) == (0, [])
        assert reader.carried_schema.field("doc_id").type == pa.int32()
