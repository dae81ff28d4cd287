"""Dagster as `pipelines/production` sets it up: real PostgreSQL, real S3, and the processes that the manifests name."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner
from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterInvalidConfigError,
    DagsterRun,
    DagsterRunStatus,
    Definitions,
)
from dagster._cli import create_dagster_cli
from dagster._core.launcher import LaunchRunContext
from dagster._core.utils import make_new_run_id
from dagster._daemon.cli import create_dagster_daemon_cli
from kubernetes.config import ConfigException
from s3fs import S3FileSystem
from servers.ci_skip import ci_skip
from servers.dagster_deployment import PRODUCTION, DagsterDeployment
from servers.postgres_server import PostgresServer

from docmill.pipelines.assets import ENGINE_POOL, job_assets, job_run
from docmill.pipelines.job_files import load_job
from docmill.pipelines.ui import SETTINGS

if TYPE_CHECKING:
    from servers.ceph_server import CephServer

DAY = "2026-11-20"
JOB = {
    "name": "tickets",
    "source": {
        "uri": "documents",
        "generate": {"kind": "demo", "days": [DAY], "documents_per_day": 12, "shards_per_day": 2},
    },
    "output": {"uri": "answers"},
    "engine": {"kind": "fake"},
    "tasks": {"topics": {"kind": "classify", "labels": ["billing", "delivery"]}},
}


@pytest.fixture(scope="module")
def deployment(
    ceph_server: CephServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DagsterDeployment]:
    if PostgresServer.programs() is None:
        ci_skip("PostgreSQL is not installed; tests/servers/install.sh installs it")
    with PostgresServer() as postgres:
        deployment = DagsterDeployment(tmp_path_factory.mktemp("production"), postgres, ceph_server.s3, JOB)
        try:
            deployment.start()
            yield deployment
        finally:
            deployment.stop()


@pytest.fixture(scope="module")
def finished_run(deployment: DagsterDeployment) -> str:
    return deployment.run("tickets", DAY)


@pytest.fixture
def environment(deployment: DagsterDeployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """For this process that of the deployment's."""
    for name, value in deployment.env.items():
        monkeypatch.setenv(name, value)


@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_runs_are_in_postgresql_and_what_they_print_in_the_bucket(
    deployment: DagsterDeployment, finished_run: str
) -> None:
    assert deployment.postgres.query("SELECT run_id, status FROM runs") == [(finished_run, "SUCCESS")]
    assert deployment.postgres.query(
        f"SELECT step_key FROM event_logs WHERE run_id = '{finished_run}' AND dagster_event_type = 'STEP_SUCCESS'"
    ) == [("tickets__documents",), ("tickets__answers",)]
    with DagsterInstance.from_config(str(deployment.home)) as instance:
        captured = {
            step: entry.dagster_event.logs_captured_data.file_key
            for entry in instance.all_logs(finished_run, of_type=DagsterEventType.LOGS_CAPTURED)
            if entry.dagster_event is not None
            for step in entry.dagster_event.logs_captured_data.step_keys or []
        }
        key = [finished_run, "compute_logs", captured["tickets__answers"]]
        printed = instance.compute_log_manager.get_log_data(key).stderr
    assert printed is not None
    assert b"tickets__answers - running: " in printed
    folder = f"{deployment.s3.bucket}/dagster/storage/{finished_run}/compute_logs"
    assert set(S3FileSystem(**deployment.s3.storage_options()).ls(folder)) == {
        f"{folder}/{name}.{kind}" for name in captured.values() for kind in ("out", "err")
    }
    assert not [path for path in deployment.home.rglob("*") if path.suffix in (".db", ".out", ".err")]


@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_the_commands_of_the_notes_reach_the_database(
    deployment: DagsterDeployment, finished_run: str
) -> None:
    """Also what the daemon's probe runs."""
    notes = (PRODUCTION / "README.md").read_text() + (PRODUCTION / "kubernetes-dagster.yaml").read_text()
    groups = {"dagster": create_dagster_cli(), "dagster-daemon": create_dagster_daemon_cli()}
    for command in (
        "dagster-daemon, liveness-check",
        "dagster instance info",
        "dagster instance migrate",
        f"dagster instance concurrency set {ENGINE_POOL} 4",
    ):
        assert command in notes
        program, *arguments = command.replace(",", "").split()
        done = CliRunner().invoke(groups[program], arguments)
        assert done.exit_code == 0, f"{command}: {done.output}"
        assert deployment.postgres.password not in done.output
    assert deployment.postgres.query('SELECT concurrency_key, "limit" FROM concurrency_limits') == [
        (ENGINE_POOL, 4)
    ]


@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_on_kubernetes_a_run_is_a_pod_with_a_gpu_that_needs_no_access_to_kubernetes(
    deployment: DagsterDeployment, finished_run: str, tmp_path: Path
) -> None:
    """Up to the request that makes the pod."""
    text = "".join((PRODUCTION / name).read_text() for name in ("dagster.yaml", "run_launcher.yaml"))
    (tmp_path / "dagster.yaml").write_text(text)
    with jobs_asked_for(tmp_path / "kubeconfig") as asked_for:
        settings = yaml.safe_load(text)
        settings["run_launcher"]["config"] |= {
            "load_incluster_config": False,
            "kubeconfig_file": str(tmp_path / "kubeconfig"),
        }
        (tmp_path / "launching").mkdir()
        (tmp_path / "launching/dagster.yaml").write_text(yaml.safe_dump(settings))
        with DagsterInstance.from_config(str(tmp_path / "launching")) as instance:
            run = run_like(instance, finished_run)
            instance.run_launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
    [job] = asked_for
    kubernetes_validate.validate(job, "1.31", strict=True)
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "docmill-gpu:0.1.0", "the code location's own"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "command" not in container, "the image's entry point has to take the arguments as they are"
    assert container["args"][:3] == ["dagster", "api", "execute_run"]
    # What the pod runs has no access to Kubernetes, with which the launcher alone could be made: here it neither.
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        job = load_job(f"{deployment.env['DOCMILL_JOBS']}/tickets.yaml")
        definitions = Definitions(assets=job_assets(job), jobs=[job_run(job)])
        done = definitions.resolve_job_def(job.name).execute_in_process(instance=instance, partition_key=DAY)
        assert done.success
        with pytest.raises(ConfigException, match="not set"):
            instance.run_launcher  # noqa: B018


def run_like(instance: DagsterInstance, run_id: str) -> DagsterRun:
    """A new run, as the queue hands it to the launcher."""
    before = instance.get_run_by_id(run_id)
    assert before is not None
    return instance.run_storage.add_run(
        before._replace(run_id=make_new_run_id(), status=DagsterRunStatus.NOT_STARTED)
    )


@contextmanager
def jobs_asked_for(kubeconfig: Path) -> Iterator[list[dict[str, Any]]]:
    """The Jobs that are asked of a Kubernetes that does nothing but write them down; its address is in the file."""
    jobs: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/apis/batch/v1/namespaces/docmill/jobs"
            jobs.append(json.loads(body))
            self.send_response(201)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        cluster = {"server": f"http://127.0.0.1:{server.server_port}"}
        content = {
            "current-context": "here",
            "clusters": [{"name": "here", "cluster": cluster}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "nobody"}}],
        }
        kubeconfig.write_text(yaml.safe_dump(content))
        try:
            yield jobs
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("missing", ["DAGSTER_PG_HOST", "DAGSTER_PG_PASSWORD"])
def test_dagster_does_not_start_without_its_database_and_names_the_variable(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dagster.yaml").write_text((PRODUCTION / "dagster.yaml").read_text())
    for name, value in PostgresServer().env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing)
    with pytest.raises(DagsterInvalidConfigError, match=f'"{missing}" which is not set'):
        DagsterInstance.from_config(str(tmp_path))


def test_the_settings_are_our_own_but_for_storage_logs_and_the_time_to_start() -> None:
    ours, production = (yaml.safe_load(path.read_text()) for path in (SETTINGS, PRODUCTION / "dagster.yaml"))
    assert set(production) - set(ours) == {"storage", "compute_logs"}
    assert (
        ours.pop("run_launcher")["class"] == "LocalRunLauncher"
    )  # Kubernetes has its own: run_launcher.yaml
    production["run_monitoring"]["start_timeout_seconds"] = ours["run_monitoring"]["start_timeout_seconds"]
    assert {name: production[name] for name in ours} == ours
