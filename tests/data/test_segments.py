"""Segments: what was finished is found again, whatever lies beside it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from docmill.data import storage
from docmill.data.records import Usage
from docmill.data.segments import FinishedRequest, read_segments, write_segment

ANSWERED = FinishedRequest("k1", (1, 2, 3), "stop", Usage(10, 4, 3))
LABELLED = FinishedRequest("k2", (), "stop", Usage(10, 0, 1), label_logprobs=(-0.5, -1.25))
FAILED = FinishedRequest("k3", error_reason="killed_engine", error_message="twice", attempts=2)


def test_finished_requests_are_read_back_as_they_were(tmp_path: Path) -> None:
    write_segment(f"{tmp_path}/u", "w-0", [ANSWERED, LABELLED])
    write_segment(f"{tmp_path}/u", "w-1", [FAILED])
    assert read_segments([f"{tmp_path}/u"]) == {"k1": ANSWERED, "k2": LABELLED, "k3": FAILED}


def test_several_folders_are_one_and_absent_ones_are_empty(tmp_path: Path) -> None:
    write_segment(f"{tmp_path}/u", "w-0", [ANSWERED])
    write_segment(f"{tmp_path}/ancestor", "w-0", [FAILED])
    found = read_segments([f"{tmp_path}/u", f"{tmp_path}/ancestor", f"{tmp_path}/absent"])
    assert found.keys() == {"k1", "k3"}
    assert read_segments([f"{tmp_path}/absent"]) == {}


def test_what_is_no_segment_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_segment(f"{tmp_path}/u", "w-0", [ANSWERED])
    storage.put_bytes(f"{tmp_path}/u/torn.parquet", storage.read_bytes(f"{tmp_path}/u/w-0.parquet")[:-7])
    with caplog.at_level(logging.WARNING):
        assert read_segments([f"{tmp_path}/u"]) == {"k1": ANSWERED}
    assert "torn.parquet is no segment" in caplog.text


def test_a_segment_that_is_removed_while_they_are_read_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run has finished the partition and cleans up."""
    for number in range(3):
        write_segment(f"{tmp_path}/u", f"w-{number}", [FinishedRequest(f"k{number}")])
    listed = storage.list_files(f"{tmp_path}/u")
    storage.delete(listed[1].uri)
    monkeypatch.setattr(storage, "list_files", lambda _: listed)
    assert read_segments([f"{tmp_path}/u"]).keys() == {"k0", "k2"}
