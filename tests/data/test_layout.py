"""Where everything lies is a public contract: readers glob it, and older runs are found by it."""

from __future__ import annotations

import pytest

from docmill.data.layout import Layout, answers_glob, join, partition_of, partitions_folder, source_folder
from docmill.data.records import Partition

DAY = Partition("dt", "2026-11-20")


def test_a_days_files_lie_where_the_readme_says() -> None:
    layout = Layout("s3://bucket/answers/", DAY)
    assert layout.answers("summaries", "deep/a.parquet") == (
        "s3://bucket/answers/summaries/dt=2026-11-20/deep/a.parquet"
    )
    assert layout.report == "s3://bucket/answers/_docmill/dt=2026-11-20/report.json"
    assert layout.report_page == "s3://bucket/answers/_docmill/dt=2026-11-20/report.html"
    assert layout.manifest == "s3://bucket/answers/_docmill/dt=2026-11-20/manifest.json"
    assert source_folder("s3://bucket/docs", DAY) == "s3://bucket/docs/dt=2026-11-20"


def test_an_unpartitioned_job_has_no_folder_for_the_partition() -> None:
    layout = Layout("/answers", Partition())
    assert layout.answers("summaries", "a.parquet") == "/answers/summaries/a.parquet"
    assert layout.manifest == "/answers/_docmill/all/manifest.json"
    assert source_folder("/docs/", Partition()) == "/docs"


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("dt=2026-11-20", DAY),
        ("dt=a=b", Partition("dt", "a=b")),
        ("all", Partition()),
        ("answers", None),  # requests for later runs
        ("probe-1", None),
    ],
)
def test_the_folder_of_a_partition_is_told_from_the_others(folder: str, expected: Partition | None) -> None:
    assert partition_of(folder) == expected
    if expected is not None:
        assert Layout("/answers", expected).internal_folder == f"{partitions_folder('/answers')}/{folder}"


def test_a_glob_over_a_task_covers_every_partition_and_nothing_of_ours() -> None:
    assert answers_glob("s3://bucket/answers", "summaries") == "s3://bucket/answers/summaries/**/*.parquet"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("s3://b/", "/a/", "c"), "s3://b/a/c"),
        (("/a", "", "b"), "/a/b"),
        (("relative", "b"), "relative/b"),
        (("memory://x",), "memory://x"),
    ],
)
def test_parts_are_joined_with_single_slashes(parts: tuple[str, ...], expected: str) -> None:
    assert join(*parts) == expected
