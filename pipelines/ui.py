"""`docmill ui`: Dagster's pages and its daemon over all jobs, on this machine, until Ctrl-C."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from urllib.error import URLError

from docmill.pipelines.console import stderr_console, stdout_console
from docmill.pipelines.exit_codes import WrongUsage

DEFAULT_PORT = 3000
PORTS_TRIED = 100
SECONDS_TO_STOP = 60
SETTINGS = Path(__file__).parent / "dagster.yaml"
_PR_SET_PDEATHSIG = 1


def docmill_home() -> Path:
    """Folder of what docmill keeps on this machine: `${DOCMILL_HOME:-.docmill}`, absolute."""
    return Path(os.environ.get("DOCMILL_HOME") or ".docmill").expanduser().absolute()


def dagster_home() -> Path:
    """Dagster's folder: DAGSTER_HOME where it is set, else one below docmill's."""
    return Path(os.environ.get("DAGSTER_HOME") or docmill_home() / "dagster")


def ui_command(*, port: int | None, host: str) -> None:
    """Start Dagster, print its address when it answers, and end it with this process."""
    with ExitStack() as held:
        _serve(_choose_port(port, host, held), host)


def _serve(chosen: int, host: str) -> None:
    home = prepare_dagster_home()
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{chosen}"
    stderr_console().print(f"starting Dagster in {home} (half a minute on a small machine)", soft_wrap=True)
    process = _start(home, chosen, host)
    try:
        _wait_until_ready(process, url)
        stdout_console().print(f"Dagster answers at {url} - Ctrl-C ends it", soft_wrap=True)
        sys.stdout.flush()
        process.wait()
    except KeyboardInterrupt:
        return  # the usual way to end it, so no error
    finally:
        _stop(process)
    raise RuntimeError(f"Dagster ended by itself with code {process.returncode}; its messages are above")


def prepare_dagster_home() -> Path:
    """Make Dagster's folder, with our settings unless it has its own."""
    home = dagster_home()
    home.mkdir(parents=True, exist_ok=True)
    if not os.environ.get("DAGSTER_HOME") and not (home / "dagster.yaml").exists():
        shutil.copyfile(SETTINGS, home / "dagster.yaml")
    _announce_pool(home)
    return home


def _announce_pool(home: Path) -> None:
    """Give the engine's pool its limit before the first run asks for it.

    Dagster 1.13 takes the default limit over when it first meets a pool, but after it has let all runs through that
    were queued by then: a first backfill would start several engines at once.
    """
    from dagster import DagsterInstance

    from docmill.pipelines.engine_step import ENGINE_POOL

    with DagsterInstance.from_config(str(home)) as instance:
        known = {pool.name for pool in instance.event_log_storage.get_pool_limits()}
        if ENGINE_POOL not in known and instance.event_log_storage.supports_global_concurrency_limits:
            instance.event_log_storage.initialize_concurrency_limit_to_default(ENGINE_POOL)


def _choose_port(wanted: int | None, host: str, held: ExitStack) -> int:
    """A port that is free, and that no other `docmill ui` of this user chooses until `held` is closed."""
    if wanted is not None:
        if not _take(wanted, host, held):
            raise WrongUsage(
                f"port {wanted} is taken; name another, or leave --port out and a free one is chosen"
            )
        return wanted
    for port in range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED):
        if _take(port, host, held):
            return port
    raise WrongUsage(
        f"ports {DEFAULT_PORT} to {DEFAULT_PORT + PORTS_TRIED - 1} are all taken; name one with --port"
    )


def _take(port: int, host: str, held: ExitStack) -> bool:
    """Dagster opens its port half a minute after it was chosen: meanwhile a locked file says whose it is."""
    name = f"docmill-ui-{os.getuid()}-{port}.lock"
    file = os.open(Path(tempfile.gettempdir(), name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    held.callback(os.close, file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return _is_free(port, host)


def _is_free(port: int, host: str) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # a port just given up is free, as for the server
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise WrongUsage(f"cannot listen on {host}, port {port}: {error.strerror}") from error
    return True


def _start(home: Path, port: int, host: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "DOCMILL_HOME": str(docmill_home()),
        "DAGSTER_HOME": str(home),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        # Its successor `dg dev` is a package of its own that brings nothing here.
        "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS") or "ignore:Function `dev_command` is superseded",
    }
    command = [sys.executable, "-m", "dagster", "dev", "-m", "docmill.pipelines.definitions"]
    options = ["-h", host, "-p", str(port), "--log-level", "warning"]
    # A session of its own: Ctrl-C comes here first, and is handed on once, instead of to every process at once.
    return subprocess.Popen(
        [*command, *options],
        env=environment,
        stdout=2,  # Dagster logs there; our stdout says where it answers
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )


def _die_with_parent() -> None:
    """Ask Linux for a SIGTERM when our process is killed; elsewhere nothing happens."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    here = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # not by way of the user's web proxy
    while process.poll() is None:
        try:
            with here.open(f"{url}/server_info", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"Dagster did not start (code {process.returncode}); its messages are above")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to `dagster dev`, which ends its webserver, daemon and code server; then the whole session, hard."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave processes behind
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_TO_STOP)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
