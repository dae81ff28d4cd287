"""The ledger of a run: who works on which unit, and which units are done. Small JSON files in the output's own store.

Only three kinds of write happen here, so any object store will do: a file created if nothing lies there (claims,
splits, done marks: written once, never changed), a file that its one owner writes over and over (a worker's beat),
and the removal of everything at the end. Times are the store's own, so clocks of workers may differ.

    claims/{unit}/{n}.json    the n-th worker to take the unit; the highest n counts
    workers/{worker}.json     a worker's beat: a worker without one for a lease is gone, and so are its claims
    splits/{unit}.json        the unit is now two; the second half is somebody else's
    done/{unit}.json          the unit is done: where its answers are, and its figures
    origin.json               what was finished when the first run by this ledger began; goes last

A mark of a unit that is done is removed only where its parts are gone: then the unit is open again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import psutil

from docmill.data import storage
from docmill.data.errors import StorageError, StorageNotFound
from docmill.data.layout import Layout, join
from docmill.data.plan import Plan, Unit

T = TypeVar("T")

READERS = 16  # files read at once: each is small, and takes the store's time to answer
WRITE_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Beat:
    """What a worker says of itself every few seconds. Written over the one before."""

    worker: str
    host: str  # the machine's start and its process numbers: what `pid` can be looked up in
    pid: int
    pid_started: float
    next_rows: dict[str, int] = field(default_factory=dict)  # unit -> first row not handed to the engine yet
    num_rows_done: int = 0
    num_prompt_tokens: int = 0  # computed by its engine, replayed ones not counted
    num_output_tokens: int = 0
    seconds: float = 0.0  # since the worker started
    ended: bool = False
    figures: dict[str, Any] = field(default_factory=dict)  # for the report, see `ops.worker`


@dataclass(frozen=True, slots=True)
class Done:
    """The mark of a finished unit. The first one written counts; a second computation of the same unit is dropped."""

    unit_id: str
    worker: str
    parts: dict[str, str]  # task -> URI of the unit's answers
    figures: dict[str, Any]  # task -> counts, for the report, see `ops.unit_answers`
    error: str | None = None  # why the shard cannot be used; then there are no parts


@dataclass(frozen=True, slots=True)
class Origin:
    """When a ledger began. `finished` is `manifest.finish_stamp` then: another one now means that its work is out.

    Only for the same plan: shards may have come and gone since, and a stamp is of one plan.
    """

    tasks: list[str]
    finished: str
    plan: str  # its id


@dataclass(frozen=True, slots=True)
class View:
    """The ledger at one moment, by one listing."""

    claims: dict[str, int]  # unit -> highest claim number
    beats: dict[str, float]  # worker -> when it last said that it lives, on the store's clock
    splits: frozenset[str]
    done: frozenset[str]


class Ledger:
    """The ledger of one plan. Any number of processes may hold one for the same plan."""

    def __init__(self, layout: Layout, plan: Plan):
        self.layout, self.plan = layout, plan
        self._folder = layout.ledger(plan.fingerprint)
        self._claimants: dict[tuple[str, int], str] = {}  # claims and splits never change once written
        self._split_rows: dict[str, int] = {}

    def begin(self, finished: str) -> Origin:
        """Say what is finished as a run begins; returns what the first run by this ledger said."""
        origin = Origin(self.plan.tasks, finished, self.plan.id)
        uri = self._uri("origin")
        _while_folders_vanish(lambda: storage.create_bytes(uri, json.dumps(asdict(origin)).encode()))
        return read_origin(self._folder) or origin

    def view(self) -> View:
        """What is there now."""
        claims: dict[str, int] = {}
        beats: dict[str, float] = {}
        splits, done = set(), set()
        for file in storage.list_files(self._folder):
            kind, _, rest = file.name.partition("/")
            name = rest.removesuffix(".json")
            if kind == "claims":
                unit_id, _, number = name.partition("/")
                claims[unit_id] = max(claims.get(unit_id, -1), int(number))
            elif kind == "workers":
                beats[name] = file.modified
            elif kind == "splits":
                splits.add(name)
            elif kind == "done":
                done.add(name)
        return View(claims, beats, frozenset(splits), frozenset(done))

    def units(self, view: View) -> list[Unit]:
        """The plan's units with all splits applied, in the plan's order. A unit that is done whole stays whole."""
        found: list[Unit] = []
        waiting = list(reversed(self.plan.units))
        while waiting:
            unit = waiting.pop()
            if unit.id in view.done or unit.id not in view.splits:
                found.append(unit)
                continue
            at_row = self.split_row(unit.id)
            if at_row is None:  # listed a moment ago: another run has finished, and removes it all
                found.append(unit)
                continue
            left, right = unit.split(at_row)
            waiting += [right, left]
        return found

    def claim(self, unit_id: str, number: int, worker: str) -> bool:
        """Try to be the unit's `number`-th claimant; False where somebody else is."""
        content = json.dumps({"worker": worker}).encode()
        return self._create(self._uri("claims", unit_id, f"{number:06d}"), content)

    def claimants(self, claims: Sequence[tuple[str, int]]) -> dict[str, str]:
        """By unit, the workers that made these claims; without those that are gone."""
        if all(claim in self._claimants for claim in claims):  # as it is most of the time
            return {unit_id: self._claimants[unit_id, number] for unit_id, number in claims}
        with ThreadPoolExecutor(READERS) as readers:
            workers = readers.map(lambda claim: self.claimant(*claim), claims)
            return {unit_id: name for (unit_id, _), name in zip(claims, workers, strict=True) if name}

    def claimant(self, unit_id: str, number: int) -> str | None:
        """The worker that made a claim; None where it is gone, as all is once another run has finished."""
        key = (unit_id, number)
        if key not in self._claimants:
            content = self._read("claims", unit_id, f"{number:06d}")
            if content is None:
                return None
            self._claimants[key] = content["worker"]
        return self._claimants[key]

    def last_claim(self, unit_id: str) -> int:
        """Number of the unit's latest claim; -1 where there is none."""
        files = storage.list_files(self._uri("claims", unit_id, suffix=""))
        return max((int(file.name.removesuffix(".json")) for file in files), default=-1)

    def split(self, unit_id: str, at_row: int) -> bool:
        """Make two units of one; False where it was split before (the first split counts)."""
        return self._create(self._uri("splits", unit_id), json.dumps({"at_row": at_row}).encode())

    def split_row(self, unit_id: str) -> int | None:
        """Where a unit was split; None where it was not."""
        if unit_id not in self._split_rows:
            content = self._read("splits", unit_id)
            if content is None:
                return None
            self._split_rows[unit_id] = content["at_row"]
        return self._split_rows[unit_id]

    def beat(self, beat: Beat) -> None:
        """Say that a worker lives."""
        uri, content = self._uri("workers", beat.worker), json.dumps(asdict(beat)).encode()
        _while_folders_vanish(lambda: storage.put_bytes(uri, content))

    def read_beats(self, workers: Iterable[str]) -> list[Beat]:
        """What workers last said of themselves; one that is gone meanwhile is left out."""
        return self._read_all(Beat, "workers", workers)

    def finish(self, done: Done) -> bool:
        """Mark a unit as done; False where it was before."""
        return self._create(self._uri("done", done.unit_id), json.dumps(asdict(done)).encode())

    def reopen(self, unit_ids: Iterable[str]) -> None:
        """Units are not done after all: their answers are gone."""
        storage.delete_files([self._uri("done", unit_id) for unit_id in unit_ids])

    def read_done(self, unit_ids: Iterable[str]) -> list[Done]:
        """Done marks, in the order asked for; one that is gone meanwhile is left out."""
        return self._read_all(Done, "done", unit_ids)

    def _read_all(self, shape: Callable[..., T], kind: str, names: Iterable[str]) -> list[T]:
        def read(name: str) -> T | None:
            content = self._read(kind, name)
            try:
                return None if content is None else shape(**content)
            except TypeError:  # of another version of docmill
                return None

        names = list(names)
        if not names:
            return []
        with ThreadPoolExecutor(min(READERS, len(names))) as readers:
            return [found for found in readers.map(read, names) if found is not None]

    def _read(self, kind: str, *names: str) -> dict[str, Any] | None:
        """A file's content; None where it is gone, or empty as a power cut leaves files on a local disk."""
        try:
            content = json.loads(storage.read_bytes(self._uri(kind, *names)))
        except (StorageNotFound, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def _create(self, uri: str, content: bytes) -> bool:
        return _while_folders_vanish(lambda: storage.create_bytes(uri, content))

    def _uri(self, kind: str, *names: str, suffix: str = ".json") -> str:
        return join(self._folder, kind, *names) + suffix


def read_origin(ledger_folder: str) -> Origin | None:
    """When a ledger began; None where that does not lie there."""
    try:
        return Origin(**json.loads(storage.read_bytes(join(ledger_folder, "origin.json"))))
    except (StorageNotFound, ValueError, TypeError):
        return None


def remove_ledger(ledger_folder: str) -> None:
    """All but the origin. Done marks go first, so that none is left whose parts are gone."""
    for kind in ("done", "claims", "splits", "workers"):
        storage.delete_folder(join(ledger_folder, kind))


def _while_folders_vanish(write: Callable[[], T]) -> T:
    """On local disks a folder may be removed, by who cleans up, between its making and the write into it."""
    for _ in range(WRITE_ATTEMPTS - 1):
        try:
            return write()
        except StorageError as error:  # not found, or Python's own makedirs stumbles
            if error.retryable:
                raise
    return write()


@cache
def this_host() -> str:
    """Names the machine's start and the process numbers that this process sees: equal where a pid means the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"unknown-{os.getpid()}"  # no other process will find itself here


def process_is_gone(beat: Beat) -> bool:
    """Whether the worker ran on this machine and its process is no more; False where that cannot be told."""
    if beat.host != this_host():
        return False
    try:
        process = psutil.Process(beat.pid)
        return abs(process.create_time() - beat.pid_started) > 1 or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
