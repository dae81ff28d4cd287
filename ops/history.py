"""The reports of finished partitions: what `docmill report` adds up, and what a run's page compares itself with.

A partition has one report, that of its last run: of a run of some tasks it tells these alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from docmill.data import storage
from docmill.data.errors import StorageNotFound
from docmill.data.finished import READS_AT_ONCE, finished_partitions, list_run_partitions
from docmill.data.layout import Layout
from docmill.data.manifest import read_manifest
from docmill.data.records import Partition
from docmill.ops.report import Report

log = logging.getLogger(__name__)


@dataclass
class History:
    """Reports by partition, in the order of their days."""

    reports: dict[Partition, Report] = field(default_factory=dict)
    unreadable: list[Partition] = field(
        default_factory=list
    )  # finished, with a report of another docmill or none


def read_history(output_uri: str, *, first: str | None = None, last: str | None = None) -> History:
    """Of the finished partitions from `first` to `last`, both included, see `data.finished`.

    Without their timelines: a year of them would fill the memory, and nobody adds them up.
    """
    partitions = list(finished_partitions(output_uri, first=first, last=last))
    history = History()
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        reports = pool.map(lambda partition: _read_without_timeline(output_uri, partition), partitions)
        for partition, report in zip(partitions, reports, strict=True):
            if report is None:
                history.unreadable.append(partition)
            else:
                history.reports[partition] = report
    return history


def reports_before(output_uri: str, partition: Partition, *, most: int) -> list[Report]:
    """Of the last finished partitions before this one, the latest last and without their timelines.

    Reads no more than it needs.
    """
    if partition.value is None:
        return []
    earlier = [
        each for each in list_run_partitions(output_uri, last=partition.value) if str(each) < str(partition)
    ]
    return list(_latest(output_uri, reversed(earlier), most))[::-1]


def read_report(output_uri: str, partition: Partition) -> Report | None:
    """The report of a partition; None where there is none that this version understands."""
    uri = Layout(output_uri, partition).report
    try:
        return Report.model_validate_json(storage.read_bytes(uri))
    except StorageNotFound:
        return None
    except ValueError as error:
        log.warning("%s is no report of this version: %s", uri, type(error).__name__)
        return None


def _latest(output_uri: str, partitions: Iterable[Partition], most: int) -> Iterator[Report]:
    for partition in partitions:
        if most <= 0:
            return
        if read_manifest(Layout(output_uri, partition).manifest) is None:
            continue
        if report := _read_without_timeline(output_uri, partition):
            most -= 1
            yield report


def _read_without_timeline(output_uri: str, partition: Partition) -> Report | None:
    report = read_report(output_uri, partition)
    if report is not None:
        report.timeline.clear()
    return report
