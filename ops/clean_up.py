"""Removes what led to the answers, once they are out: segments, parts and ledgers. Called by the run that wrote them.

What others still need stays: a worker that lives, and the unfinished work of runs of other tasks. A run that dies in
here leaves the ledger's origin behind, by which the next run sees that the work was finished, see `ops.partition_job`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from docmill.data import storage
from docmill.data.errors import StorageError
from docmill.data.ledger import Ledger, read_origin, remove_ledger
from docmill.ops.ledger_progress import read_standing

log = logging.getLogger(__name__)


def clean_up(ledger: Ledger, *, lease_seconds: float) -> None:
    """Never raises because of the store: the answers are out, and what is left goes with the next run."""
    try:
        _clean_up(ledger, lease_seconds)
    except StorageError as error:
        log.warning("partition=%s not cleaned up: %s", ledger.plan.partition, error)


def _clean_up(ledger: Ledger, lease_seconds: float) -> None:
    if read_standing(ledger, lease_seconds=lease_seconds).living:
        return  # a run of the same settings, maybe over more documents: it cleans up when it ends
    layout, own = ledger.layout, ledger.plan.fingerprint
    last_seen = {own: 0.0}
    for folder in (layout.ledgers_folder, layout.all_parts_folder):
        for file in storage.list_files(folder):
            name = file.name.split("/", 1)[0]
            last_seen[name] = max(last_seen.get(name, 0.0), file.modified)
    now = max(last_seen.values())
    kept = {
        name
        for name, seen in last_seen.items()
        if name != own
        and (now - seen <= lease_seconds or not _is_older(layout.ledger(name), ledger.plan.tasks))
    }
    gone = [own, *sorted(last_seen.keys() - kept - {own})]
    for name in gone:
        remove_ledger(layout.ledger(name))
        storage.delete_folder(layout.parts_folder(name))
    storage.delete_folder(layout.reused_folder(ledger.plan.id))
    storage.delete_folder(layout.near_folder(ledger.plan.id))
    if not kept:
        for folder in (
            layout.all_parts_folder,
            layout.segments_folder,
            layout.all_reused_folder,
            layout.all_near_folder,
        ):
            storage.delete_folder(folder)
    for name in gone:
        storage.delete_folder(layout.ledger(name))
    if not kept:
        storage.delete_folder(layout.ledgers_folder)


def _is_older(ledger_folder: str, tasks: Collection[str]) -> bool:
    """Whether a ledger without workers is of tasks that are finished now: what it holds is of earlier settings."""
    origin = read_origin(ledger_folder)
    return origin is None or set(origin.tasks) <= set(tasks)
