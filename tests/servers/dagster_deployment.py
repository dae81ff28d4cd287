"""The processes of Dagster that pipelines/production/kubernetes-dagster.yaml names, on this machine."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from servers.postgres_server import PostgresServer
from servers.process import ServerProcess
from servers.s3_server import S3Server, free_port

PRODUCTION = Path(__file__).parents[2] / "pipelines/production"
PROGRAMS = Path(sys.executable).parent


class DagsterDeployment:
    """Code location, daemon and pages, with the arguments of their containers and the settings of dagster.yaml."""

    def __init__(self, folder: Path, postgres: PostgresServer, s3: S3Server, job: Mapping[str, Any]) -> None:
        self.postgres, self.s3, self.home, self.log = postgres, s3, folder / "dagster", folder / "log.txt"
        self._grpc_port, self._web_port = free_port(), free_port()
        self._processes: list[ServerProcess] = []
        self.home.mkdir()
        (self.home / "dagster.yaml").write_text((PRODUCTION / "dagster.yaml").read_text())
        jobs = folder / "jobs"
        jobs.mkdir()
        (jobs / f"{job['name']}.yaml").write_text(yaml.safe_dump(job))
        self.env = {
            **s3.env(),
            **postgres.env(),
            "DAGSTER_HOME": str(self.home),
            "DAGSTER_LOGS_BUCKET": s3.bucket,
            "DOCMILL_JOBS": str(jobs),
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
        }

    def start(self) -> None:
        """Each when the one before answers."""
        manifests = yaml.safe_load_all((PRODUCTION / "kubernetes-dagster.yaml").read_text())
        pods = [item["spec"]["template"]["spec"] for item in manifests if item["kind"] == "Deployment"]
        containers = {container["name"]: container for pod in pods for container in pod["containers"]}
        self._start(containers.pop("code"))
        self._wait_for_code()
        self._start(containers.pop("daemon"))
        self._start(containers.pop("webserver"))
        self._processes[-1].wait_for_http(self._web_port)
        assert not containers, f"kubernetes-dagster.yaml has more than is started here: {list(containers)}"

    def stop(self) -> None:
        """Ends all of them. May be called again."""
        while self._processes:
            self._processes.pop().stop(timeout_seconds=30)

    def run(self, job: str, day: str) -> str:
        """The id of a run that somebody starts on the pages, when it has succeeded."""
        selector = {
            "repositoryLocationName": f"grpc:127.0.0.1:{self._grpc_port}",
            "repositoryName": "__repository__",
            "jobName": job,
        }
        tags = [{"key": "dagster/partition", "value": day}]
        launched = self._ask(
            """mutation($p: ExecutionParams!) {
              launchRun(executionParams: $p) {__typename ... on LaunchRunSuccess {run {runId}}}}""",
            p={"selector": selector, "executionMetadata": {"tags": tags}},
        )["launchRun"]
        if launched["__typename"] != "LaunchRunSuccess":
            raise RuntimeError(f"the run was not launched: {launched['__typename']}")
        run_id = str(launched["run"]["runId"])
        end = time.monotonic() + 200
        asked = "query($id: ID!) {runOrError(runId: $id) {... on Run {status}}}"
        while (status := self._ask(asked, id=run_id)["runOrError"]["status"]) != "SUCCESS":
            if status in ("FAILURE", "CANCELED") or time.monotonic() > end:
                raise RuntimeError(f"the run is {status}: {self.log.read_text()[-3000:]}")
            time.sleep(0.3)
        return run_id

    def _ask(self, query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        url = f"http://127.0.0.1:{self._web_port}/graphql"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            data: dict[str, Any] = json.load(response)["data"]
            return data

    def _start(self, container: Mapping[str, Any]) -> None:
        here = {"0.0.0.0": "127.0.0.1", "docmill-code": "127.0.0.1"}
        here |= {"4000": str(self._grpc_port), "3000": str(self._web_port)}
        program, *arguments = [here.get(word, word) for word in container["args"]]
        env = self.env | {variable["name"]: variable["value"] for variable in container.get("env", [])}
        self._processes.append(ServerProcess(str(PROGRAMS / program), *arguments, log=self.log, env=env))

    def _wait_for_code(self) -> None:
        """With the question that Kubernetes' probe asks."""
        import grpc
        from grpc_health.v1.health_pb2 import HealthCheckRequest
        from grpc_health.v1.health_pb2_grpc import HealthStub

        end = time.monotonic() + 120
        with grpc.insecure_channel(f"127.0.0.1:{self._grpc_port}") as channel:
            while True:
                self._processes[0].check_alive()
                try:
                    HealthStub(channel).Check(HealthCheckRequest(service="DagsterApi"), timeout=5)
                except grpc.RpcError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.2)
                else:
                    return
