"""What can be seen of a run from outside, in its ledger alone: who works, how far it is, what is safe, what was redone.

Tokens here are prompt and output tokens of requests, cached ones included: what `engine_tokens` in a worker's beat
counts, also for requests that an engine took to its grave. A request belongs to the first worker whose segment or part
made it safe; whatever a worker computed beyond its own was computed for nothing.
"""

from __future__ import annotations

import io
import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pyarrow.feather as feather
import pyarrow.parquet as pq

from docmill.data import storage
from docmill.data.errors import StorageNotFound
from docmill.data.layout import Layout


@dataclass
class Seen:
    """What one worker's beats have told so far."""

    worker: str
    beat: dict[str, Any]
    modified: float  # of the last beat, on the store's clock, which is this machine's
    history: list[tuple[float, int]] = field(
        default_factory=list
    )  # the worker's seconds, its engine's tokens

    @property
    def pid(self) -> int:
        return int(self.beat["pid"])

    @property
    def engine_tokens(self) -> int:
        """Computed, whatever became of them."""
        return int(self.beat["figures"].get("engine_tokens", 0))

    @property
    def finished_tokens(self) -> int:
        """Of requests whose answers the worker has."""
        tokens = self.beat["figures"].get("tokens", {})
        return int(tokens.get("prompt", 0) + tokens.get("output", 0))

    @property
    def num_deaths(self) -> int:
        """Of its engine."""
        return len(self.beat["figures"].get("incidents", ()))

    def tokens_per_second(self) -> float:
        """The fastest that its engine was seen to be, over at least a second."""
        fastest = 0.0
        for first, (start, before) in enumerate(self.history):
            for end, after in self.history[first + 1 :]:
                if end - start >= 1.0:
                    fastest = max(fastest, (after - before) / (end - start))
                    break
        return fastest


class Watch:
    """Reads the ledger, segments and parts of one partition again and again; remembers what is deleted later."""

    def __init__(self, layout: Layout) -> None:
        self.workers: dict[str, Seen] = {}
        self._layout = layout
        self._safe: dict[str, tuple[int, str]] = {}  # request key -> its tokens, who made it safe
        self._read: set[str] = set()  # segments and done marks: they never change

    def look(self) -> None:
        """Take in what is new."""
        for file in storage.list_files(self._layout.segments_folder):
            if file.uri not in self._read:
                self._read_segment(file.uri)
        for file in storage.list_files(self._layout.ledgers_folder):
            kind = file.name.split("/")[1]
            if kind == "done" and file.uri not in self._read:
                self._read_done(file.uri)
            elif kind == "workers":
                self._read_beat(file.uri, file.modified)

    @property
    def finished_tokens(self) -> int:
        """Of all workers."""
        return sum(seen.finished_tokens for seen in self.workers.values())

    @property
    def engine_tokens(self) -> int:
        """Of all workers' engines."""
        return sum(seen.engine_tokens for seen in self.workers.values())

    @property
    def safe_tokens(self) -> int:
        """Of all requests that are in the store."""
        return sum(tokens for tokens, _ in self._safe.values())

    def redone(self, worker: str) -> int:
        """Tokens that the worker's engines computed and others had to compute as well, or had before."""
        own = sum(tokens for tokens, owner in self._safe.values() if owner == worker)
        return self.workers[worker].engine_tokens - own

    def by_pid(self, pid: int) -> list[Seen]:
        """The workers of a process; one at a time, but a process may run several times."""
        return [seen for seen in self.workers.values() if seen.pid == pid]

    def _read_beat(self, uri: str, modified: float) -> None:
        content = _read(uri)
        if content is None:
            return
        beat = json.loads(content)
        seen = self.workers.setdefault(beat["worker"], Seen(beat["worker"], beat, modified))
        seen.beat, seen.modified = beat, modified
        if not seen.history or seen.history[-1][0] < beat["seconds"]:
            seen.history.append((beat["seconds"], seen.engine_tokens))

    def _read_segment(self, uri: str) -> None:
        content = _read(uri)
        if content is None:
            return
        self._read.add(uri)
        worker = uri.rpartition("/")[2].rpartition("-")[0]
        for row in pq.read_table(io.BytesIO(content)).to_pylist():
            self._add(row, worker)

    def _read_done(self, uri: str) -> None:
        content = _read(uri)
        if content is None:
            return
        done = json.loads(content)
        parts = [_read(part) for name, part in done["parts"].items() if name != "dead_letters"]
        if any(part is None for part in parts):
            return
        self._read.add(uri)
        for part in parts:
            for row in feather.read_table(io.BytesIO(part or b""), memory_map=False).to_pylist():
                self._add(row, done["worker"])

    def _add(self, row: dict[str, Any], worker: str) -> None:
        if row["request_key"] is not None:
            self._safe.setdefault(row["request_key"], (row["prompt_tokens"] + row["output_tokens"], worker))


def _read(uri: str) -> bytes | None:
    try:
        return storage.read_bytes(uri)
    except StorageNotFound:
        return None


def age(seen: Seen) -> float:
    """Seconds since the worker's last beat."""
    return max(0.0, time.time() - seen.modified)


def by_process(watch: Watch) -> dict[int, list[Seen]]:
    """All workers seen, by the process they ran in."""
    found: defaultdict[int, list[Seen]] = defaultdict(list)
    for seen in watch.workers.values():
        found[seen.pid].append(seen)
    return found
