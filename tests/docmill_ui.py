"""A `docmill ui` that runs for a test, and what the test asks its GraphQL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from readme import Shell


class DocmillUi:
    """Started by a command in a shell; there is somebody to ask when this returns."""

    def __init__(self, shell: Shell, command: str, messages: Path):
        self.messages = messages
        with messages.open("w") as stderr:
            self.process = subprocess.Popen(
                ["bash", "-c", command],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                cwd=shell.folder,
                env=shell.env,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("Dagster answers at http://127.0.0.1:"), self.messages.read_text()
        self.url = line.split()[3]

    def send(self, number: signal.Signals) -> None:
        """To the command and its own children, as a terminal's Ctrl-C goes; returns when it has ended."""
        os.killpg(self.process.pid, number)
        self.process.communicate(timeout=90)

    def ask(self, query: str, **variables: Any) -> Any:
        """The answer of Dagster's GraphQL."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["data"]

    def repository(self) -> dict[str, Any]:
        """The code location; it may load for a while after the pages answer."""
        query = (
            "{repositoriesOrError {... on RepositoryConnection {nodes {name location {name} jobs {name}}}}}"
        )
        for _ in range(60):
            if nodes := self.ask(query)["repositoriesOrError"]["nodes"]:
                return dict(nodes[0])
            time.sleep(1)
        raise AssertionError("no code location loaded")

    def reload(self) -> None:
        """Read the job files again, as the pages' "Reload definitions" does."""
        mutation = "mutation($l: String!) {reloadRepositoryLocation(repositoryLocationName: $l) {__typename}}"
        location = self.repository()["location"]["name"]
        found = self.ask(mutation, l=location)["reloadRepositoryLocation"]["__typename"]
        assert found == "WorkspaceLocationEntry"

    def launch(self, job: str, partition: str) -> None:
        """Put a run into the queue."""
        repository = self.repository()
        mutation = "mutation($p: ExecutionParams!) {launchRun(executionParams: $p) {__typename}}"
        parameters = {
            "selector": {
                "repositoryName": repository["name"],
                "repositoryLocationName": repository["location"]["name"],
                "jobName": job,
            },
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition}]},
        }
        assert self.ask(mutation, p=parameters)["launchRun"]["__typename"] == "LaunchRunSuccess"

    def finished_runs(self, number: int) -> list[dict[str, Any]]:
        """That many runs, when all have ended; by the time they started."""
        for _ in range(120):
            runs = self.ask("{runsOrError {... on Runs {results {status startTime endTime}}}}")[
                "runsOrError"
            ]["results"]
            if len(runs) == number and all(run["endTime"] for run in runs):
                return sorted(runs, key=lambda run: run["startTime"])
            time.sleep(1)
        raise AssertionError(f"not finished: {runs}")

    def sensors_that_have_looked(self) -> set[str]:
        """Those with a look that has ended, whatever it found."""
        repository = self.repository()
        query = """query($r: RepositorySelector!) {sensorsOrError(repositorySelector: $r) {
            ... on Sensors {results {name sensorState {ticks(limit: 1, statuses: [SKIPPED, SUCCESS]) {id}}}}}}"""
        selector = {
            "repositoryName": repository["name"],
            "repositoryLocationName": repository["location"]["name"],
        }
        found = self.ask(query, r=selector)["sensorsOrError"]["results"]
        return {sensor["name"] for sensor in found if sensor["sensorState"]["ticks"]}

    def runs_started_by(self, *tags: str, may_fail: Collection[str] = ()) -> set[tuple[str, str, str]]:
        """Job, starter and day of successful runs, when there is one with each of the tags."""
        found: set[tuple[str, str, str]] = set()
        for _ in range(240):
            runs = self.ask("{runsOrError {... on Runs {results {status jobName tags {key value}}}}}")[
                "runsOrError"
            ]["results"]
            assert not [run for run in runs if run["status"] == "FAILURE" and run["jobName"] not in may_fail]
            done = [
                (run["jobName"], {tag["key"]: tag["value"] for tag in run["tags"]})
                for run in runs
                if run["status"] == "SUCCESS"
            ]
            found = {
                (job, known[tag], known["dagster/partition"])
                for job, known in done
                for tag in tags
                if tag in known
            }
            if all(any(tag in known for _, known in done) for tag in tags):
                return found
            time.sleep(1)
        raise AssertionError(f"not all have started and succeeded: {found}")


def wait_until(holds: Callable[[], bool], *, seconds: float = 240) -> None:
    """For what shows only by looking."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} seconds"
        time.sleep(0.5)
