"""Which implementation serves, and that importing an op never fails for want of one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from docmill.kernels import _load, min_hash


def test_without_cuda_the_twins_serve_and_it_says_why() -> None:
    if torch.version.cuda is None:
        assert _load.implementation() == _load.Implementation("native", "this PyTorch is built without CUDA")
    else:
        assert _load.implementation().reason


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, "no binary; build it: python -m docmill.kernels.build"),
        (
            {"_C.older.so": b""},
            "_C.older.so is built from other sources; build anew: python -m docmill.kernels.build",
        ),
        ({"_C.this.so": b"not a library"}, "the binary does not load: "),
    ],
)
def test_a_binary_that_is_missing_old_or_broken_is_a_reason_in_one_line(
    files: dict[str, bytes], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    reason = _load.load(tmp_path / "_C.this.so")
    assert reason is not None
    assert reason.startswith(problem)
    assert "\n" not in reason


def test_the_binarys_name_changes_with_its_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for content in ("a", "b"):
        (tmp_path / "kernel.cu").write_text(content)
        monkeypatch.setattr(_load, "SOURCES", tmp_path)
        names.append(_load.binary_path().name)
    assert names[0] != names[1]


def test_an_op_is_declared_once_only() -> None:
    schema = (
        "min_hash(Tensor token_ids, Tensor offsets, int num_hashes, int shingle_size, int seed) -> Tensor"
    )
    with pytest.raises(RuntimeError, match="multiple times"):
        _load.declare(schema, native=min_hash._native, fake=min_hash._fake)
