"""The examples of `pipelines/production`, as far as they can be checked without container engine, cluster and GPU."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from dagster._cli import create_dagster_cli
from dagster._daemon.cli import create_dagster_daemon_cli
from dagster_webserver.cli import create_dagster_webserver_cli
from ray._private.utils import get_dashboard_dependency_error

from docmill.engine.pool.config import PoolConfig
from docmill.pipelines.cli import app
from docmill.pipelines.exit_codes import ExitCode
from docmill.pipelines.stop_signals import STOP_SECONDS

ROOT = Path(__file__).parents[2]
PRODUCTION = ROOT / "pipelines/production"
NOTES = (PRODUCTION / "README.md").read_text()
DOCKERFILE = (PRODUCTION / "Dockerfile").read_text()
PROGRAMS = Path(sys.executable).parent
VERSIONS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements/gpu.txt").read_text(), re.MULTILINE))
# Of what follows the program's name these only read: nothing is run.
COMMANDS: dict[str, Any] = {  # of click, and of the one in typer
    "docmill": typer.main.get_command(app),
    "dagster": create_dagster_cli(),
    "dagster-daemon": create_dagster_daemon_cli(),
    "dagster-webserver": create_dagster_webserver_cli(),
}


def manifests(*names: str) -> list[dict[str, Any]]:
    return [item for name in names for item in yaml.safe_load_all((PRODUCTION / name).read_text())]


KUBERNETES = manifests("kubernetes-dagster.yaml", "kubernetes-nightly.yaml")
[RAY_JOB] = manifests("kubernetes-ray.yaml")
[CRON_JOB] = [item for item in KUBERNETES if item["kind"] == "CronJob"]


def pod_templates() -> dict[str, dict[str, Any]]:
    """Of every pod that a manifest makes, by its name."""
    cluster = RAY_JOB["spec"]["rayClusterSpec"]
    templates = {
        "head": cluster["headGroupSpec"]["template"],
        "nightly": CRON_JOB["spec"]["jobTemplate"]["spec"]["template"],
        **{group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]},
    }
    deployments = [item for item in KUBERNETES if item["kind"] == "Deployment"]
    return templates | {item["metadata"]["name"]: item["spec"]["template"] for item in deployments}


def values_of(key: str, tree: object) -> Iterator[Any]:
    """What stands under a key, anywhere."""
    children: list[Any] = (
        list(tree.values()) if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    )
    if isinstance(tree, dict) and key in tree:
        yield tree[key]
    for child in children:
        yield from values_of(key, child)


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
def test_the_manifests_are_what_kubernetes_expects(version: str) -> None:
    """Ray's own kind has no schema here, its pods have."""
    for item in KUBERNETES:
        kubernetes_validate.validate(item, version, strict=True)
    for name, template in pod_templates().items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, version, strict=True)
    assert version.removesuffix(".0") in NOTES


def test_every_pod_is_the_image_as_nobody_special() -> None:
    [user] = re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE)
    launcher = yaml.safe_load((PRODUCTION / "run_launcher.yaml").read_text())["run_launcher"]["config"]
    run = launcher["run_k8s_config"]["pod_spec_config"]
    pods = [template["spec"] for template in pod_templates().values()]
    assert {pod["securityContext"]["runAsUser"] for pod in [*pods, run]} == {int(user)}
    containers = [container for pod in pods for container in pod["containers"]]
    confined = [container["securityContext"] for container in containers]
    for context in [*confined, launcher["security_context"]]:
        assert context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    image = f"docmill-gpu:{VERSIONS['version']}"
    assert {container["image"] for container in containers} == {image}
    assert f"-t {image} ." in DOCKERFILE
    assert f"-t {image} ." in NOTES
    for pod in (run, CRON_JOB["spec"]["jobTemplate"]["spec"]["template"]["spec"]):
        assert pod["terminationGracePeriodSeconds"] > STOP_SECONDS


def test_what_the_manifests_want_is_made_by_the_notes_or_by_themselves() -> None:
    launcher = yaml.safe_load((PRODUCTION / "run_launcher.yaml").read_text())["run_launcher"]["config"]
    everything = [*KUBERNETES, RAY_JOB, launcher]
    assert not [item for item in KUBERNETES if item["kind"] == "Secret"], "they never stand in a file"
    maps = {item["name"] for key in ("configMap", "configMapRef") for item in values_of(key, everything)}
    secrets = {item["name"] for item in values_of("secretRef", everything)}
    maps |= {launcher["instance_config_map"], *launcher["env_config_maps"]}
    assert maps == set(re.findall(r"create configmap (\S+)", NOTES))
    assert secrets | set(launcher["env_secrets"]) == set(re.findall(r"create secret generic (\S+)", NOTES))
    accounts = {item["metadata"]["name"] for item in KUBERNETES if item["kind"] == "ServiceAccount"}
    assert {*values_of("serviceAccountName", everything), launcher["service_account_name"]} == accounts
    namespaces = {item["metadata"]["namespace"] for item in [*KUBERNETES, RAY_JOB]}
    assert namespaces == {launcher["job_namespace"]} == set(re.findall(r"create namespace (\S+)", NOTES))


def test_the_notes_name_every_variable_that_dagsters_settings_read() -> None:
    settings = yaml.safe_load((PRODUCTION / "dagster.yaml").read_text())
    table = NOTES.partition("## Settings")[2].partition("\n## ")[0]
    assert set(values_of("env", settings)) <= set(re.findall(r"`([A-Z_]+)`", table))


def commands_of_notes() -> list[str]:
    """Lines of the notes' shell blocks, and what stands after `--` in a pod."""
    lines = [
        line for block in re.findall(r"```bash\n(.*?)```", NOTES, re.DOTALL) for line in block.splitlines()
    ]
    lines += re.findall(r"`(kubectl [^`]+)`", NOTES)
    return [line.partition(" -- ")[2] or line for line in lines]


@pytest.mark.parametrize("command", [line for line in commands_of_notes() if line.split()[0] in COMMANDS])
def test_the_notes_commands_exist_with_their_options(command: str) -> None:
    accepts(shlex.split(command, comments=True))


def accepts(words: list[str]) -> None:
    """Raises what the program would say about words that it does not know."""
    command, arguments, context = COMMANDS[words[0]], words[1:], None
    while True:
        context = command.make_context(words[0], arguments, parent=context)
        if not hasattr(command, "resolve_command"):
            return
        _, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])


def test_the_containers_commands_exist_with_their_options() -> None:
    for template in pod_templates().values():
        for container in template["spec"]["containers"]:
            words = container.get("args", ["sh"])  # Ray's nodes get theirs from KubeRay
            if words[0] != "sh":
                accepts(words)
    accepts(shlex.split(RAY_JOB["spec"]["entrypoint"]))


@pytest.mark.parametrize(
    ("due", "day"),
    [("2026-11-21T02:30+00:00", "2026-11-20"), ("2026-03-01T00:00+00:00", "2026-02-28")],
)
def test_the_nightly_job_is_about_the_day_before_it_was_due(due: str, day: str, tmp_path: Path) -> None:
    """Whenever the pod runs: the day comes from the name, as Kubernetes gives it."""
    (tmp_path / "docmill").write_text('#!/bin/sh\nprintf "%s\\n" docmill "$@"\n')
    (tmp_path / "docmill").chmod(0o755)
    [container] = pod_templates()["nightly"]["spec"]["containers"]
    minutes = int(datetime.fromisoformat(due).timestamp()) // 60
    name = f"{CRON_JOB['metadata']['name']}-{minutes}"
    env = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "JOB_NAME": name}
    called = subprocess.run(
        container["args"], env=env, capture_output=True, text=True, check=True, timeout=30
    )
    words = called.stdout.split()
    accepts(words)
    assert words[words.index("--partition") + 1] == day


def test_the_nightly_job_is_not_tried_again_where_that_cannot_help() -> None:
    spec = CRON_JOB["spec"]["jobTemplate"]["spec"]
    [rule] = [rule["onExitCodes"] for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert set(rule["values"]) == {ExitCode.USAGE, ExitCode.INCOMPLETE, ExitCode.BUDGET_SPENT}
    assert rule["containerName"] == spec["template"]["spec"]["containers"][0]["name"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never", "else Kubernetes refuses the policy"


def test_the_ray_job_has_a_gpu_for_each_worker_of_the_pool_that_its_comment_asks_for() -> None:
    assert (RAY_JOB["apiVersion"], RAY_JOB["kind"]) == ("ray.io/v1", "RayJob")
    cluster = RAY_JOB["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == LOCK["ray"]
    assert get_dashboard_dependency_error() is None, "KubeRay's probes and jobs ask Ray's dashboard"
    [written] = re.findall(r"`pool: (\{.*?\})`", (PRODUCTION / "kubernetes-ray.yaml").read_text())
    pool = PoolConfig.model_validate(yaml.safe_load(written))
    [group] = cluster["workerGroupSpecs"]
    [container] = group["template"]["spec"]["containers"]
    assert group["replicas"] * int(container["resources"]["limits"]["nvidia.com/gpu"]) == pool.workers
    assert f"pool: {written}" in NOTES


def test_hadolint_finds_nothing() -> None:
    found = subprocess.run(
        [PROGRAMS / "hadolint", PRODUCTION / "Dockerfile"], capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_images_python_and_cuda_are_those_of_the_lock() -> None:
    [locked_for] = re.findall(r"--python-version (\S+)", (ROOT / "Makefile").read_text())
    assert set(re.findall(r"^FROM python:([\d.]+)-", DOCKERFILE, re.MULTILINE)) == {locked_for}
    [toolkit] = re.findall(r"from=nvidia/cuda:(\d+\.\d+)\.\d+-devel", DOCKERFILE)
    assert LOCK["nvidia-cuda-runtime"].startswith(f"{toolkit}.")
    assert f"source=/usr/local/cuda-{toolkit}," in DOCKERFILE
    extras = VERSIONS["optional-dependencies"]
    assert f"torch=={LOCK['torch']}" in extras["gpu"]
    assert set(re.findall(r"--extra (\w+)", DOCKERFILE)) == {"gpu", "production"}
    dagster = LOCK["dagster"].rpartition(".")[2]
    twins = [LOCK[f"dagster-{name}"].rpartition(".")[2] for name in ("aws", "k8s", "postgres")]
    assert twins == [dagster] * 3


def test_the_images_wheel_is_whole(tmp_path: Path) -> None:
    """From what .dockerignore lets through, by the Dockerfile's own command. Kernels: tests/kernels/test_build.py."""
    listing = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files"], cwd=ROOT, capture_output=True
    )
    tracked = [name for name in listing.stdout.decode().splitlines() if (ROOT / name).is_file()]
    patterns = (PRODUCTION / "Dockerfile.dockerignore").read_text().splitlines()
    context = {name for name in tracked if not is_ignored(name, patterns)}
    for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE):
        assert {name for name in sources.split() if name != "."} <= context
    for name in context:
        (tmp_path / "context" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "context" / name, follow_symlinks=False)
    [command] = re.findall(r"^RUN python -m pip --python \S+ (wheel .*)$", DOCKERFILE, re.MULTILINE)
    words = [str(tmp_path) if word == "/wheels" else word for word in command.split()]
    subprocess.run(
        [sys.executable, "-m", "pip", *words],
        cwd=tmp_path / "context",
        check=True,
        capture_output=True,
        timeout=120,
    )
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"docmill-{VERSIONS['version']}-")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    folders = ("data/", "engine/", "kernels/", "ops/", "pipelines/")
    left_out = ("pipelines/production/", "pipelines/pictures/", "kernels/README.md")
    assert packed == {
        f"docmill/{name}" for name in tracked if name.startswith(folders) and not name.startswith(left_out)
    }


def is_ignored(name: str, patterns: list[str]) -> bool:
    """As Docker: the last pattern that fits the path or a folder above it decides."""
    ignored = False
    above = [name, *(str(parent) for parent in Path(name).parents)][:-1]
    for pattern in patterns:
        bare = pattern.removeprefix("!").removeprefix("**/")
        if not pattern.startswith("#") and any(fnmatch.fnmatch(path, bare) for path in above):
            ignored = not pattern.startswith("!")
    return ignored
