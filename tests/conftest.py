"""What all tests share: a clean environment, servers on demand, a browser page, and nothing left running.

    server.env()            with monkeypatch.setenv: leads S3 clients to `ceph_server.s3` or `moto_server`
    ci_skip("reason")       from servers.ci_skip: skips, but fails in CI
    servers.…               tests/servers is importable by that name (pythonpath in pyproject.toml)

Imports of other packages stay inside the functions, so that kernel tests also run where only torch and pytest are.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page
    from servers.ceph_server import CephServer
    from servers.s3_server import S3Server

    from docmill.engine.tokenizer import ModelTokenizer
    from docmill.engine.vllm_engine import VllmEngine


_IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
HAS_GPU = Path("/dev/nvidiactl").exists()
# Begun first, so that no process of the suite is left alone with one of them at the end.
LONG_MODULES = (
    "faults/test_kills.py",
    "pipelines/test_ui_places.py",
    "pipelines/test_ui_killed.py",
    "pipelines/test_ui_in_browser.py",
    "pipelines/test_ui.py",
)


def pytest_configure() -> None:
    # Before any test module is imported: no test may reach the user's own cloud, proxy, models or Dagster, or
    # depend on the width of the terminal.
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("AWS_", "DAGSTER_", "DOCMILL_", "COLUMNS")):
            del os.environ[name]
    os.environ |= {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if _IS_WORKER:  # several vLLMs at once on few cores: a thread that waits for another computes nothing
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    # SIGTERM then unwinds fixtures as Ctrl-C does, so that servers remove what they wrote.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if _IS_WORKER:
        return  # pytest-xdist's workers inherit the mark of the process that started them
    try:
        from servers.leftovers import mark_session
    except ImportError:  # a bare machine (no psutil): the kernel tests start no processes
        return
    mark_session()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONG_MODULES))  # the rest stays as it is
    if not HAS_GPU:
        # Not skipped: that would be a line for each file and parameter, in which other skips go unseen.
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("gpu")])
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]


def pytest_report_header() -> str | None:
    return None if HAS_GPU else "no NVIDIA GPU on this machine: tests marked gpu are left out"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a session that leaves a process behind, and ends that process."""
    if _IS_WORKER or "servers.leftovers" not in sys.modules:
        return
    from servers.leftovers import leftover_processes

    for process in leftover_processes():
        print(
            f"\nleft running by the tests: {process.pid} {' '.join(process.cmdline())[:200]}", file=sys.stderr
        )
        process.kill()
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def _fresh_filesystems() -> Iterator[None]:
    """fsspec keeps its file systems by their arguments alone; one made for another server must not be found."""
    yield
    if s3fs := sys.modules.get("s3fs"):
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def ceph_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CephServer]:
    """A real S3 server, shared by the session: `ceph_server.s3.env()`, `ceph_server.s3.uri("my-test/")`.

    A test that kills it brings it back before it ends.
    """
    from servers.ceph_server import CephServer
    from servers.ci_skip import ci_skip

    if missing := CephServer.missing_commands():
        ci_skip(f"Ceph is not installed ({', '.join(missing)} missing); tests/servers/install.sh installs it")
    with CephServer(tmp_path_factory.mktemp("ceph") / "cluster") as server:
        yield server


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """moto's S3, shared by the session; for tests that need neither authentication nor durability."""
    from servers.moto import moto_server

    with moto_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def chromium_path() -> str:
    from servers.ci_skip import ci_skip

    path = shutil.which("chromium")
    return path or ci_skip("chromium is not installed; tests/servers/install.sh installs it")


@pytest.fixture
def page(chromium_path: str) -> Iterator[Page]:
    """A page in a browser of its own; a second to start.

    Not shared between tests: while Playwright runs, its event loop occupies the main thread, and a test that calls
    asyncio.run would fail.
    """
    from playwright.sync_api import sync_playwright

    # Root may not use Chromium's sandbox; it opens only our own pages. The rest keeps it from calling home.
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, headless=True, args=flags)
        yield browser.new_page(viewport={"width": 1400, "height": 900})
        browser.close()


@pytest.fixture(scope="session")
def demo_tokenizer() -> ModelTokenizer:
    """The bundled model's tokenizer."""
    from docmill.engine.config import ModelConfig
    from docmill.engine.tokenizer import ModelTokenizer

    return ModelTokenizer(ModelConfig())


@pytest.fixture(scope="session")
def vllm_engine() -> Iterator[VllmEngine]:
    """The real vLLM with the bundled model, loaded once a session (15 s); whoever uses it leaves it empty."""
    from docmill.engine.config import EngineConfig, ModelConfig
    from docmill.engine.vllm_engine import VllmEngine

    engine = VllmEngine(ModelConfig(), EngineConfig())
    yield engine
    engine.close()
