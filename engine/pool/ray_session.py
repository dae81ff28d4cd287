"""Ray for the time of one run: a cluster's, or one of our own on this machine that ends with the run.

Called by `RayPool`. Our own Ray listens with a token made for it, and leaves nothing behind but its logs under
`/tmp/ray`, and those only if a worker was lost. If this process is killed, Ray and the workers end within 3 seconds
(two idle agents of Ray's within a minute). Where the caller's process has a Ray already (a notebook), that one
is used and stays.
"""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docmill.engine.pool.errors import PoolConfigError, PoolUnreachable

log = logging.getLogger(__name__)

# Results are small and go through the store of the driver's node; Ray would set a third of the memory aside.
_OBJECT_STORE_BYTES = 80 * 1024 * 1024
_AUTH_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_TOKEN_FILE = Path("~/.ray/auth_token")


@dataclass(slots=True)
class RaySession:
    """A connected Ray. Set `keep_logs` when they are worth reading."""

    is_ours: bool
    logs: Path | None
    keep_logs: bool = False


@contextmanager
def ray_session(*, address: str | None, num_cpus: int) -> Iterator[RaySession]:
    """Join the cluster at the address, or start Ray on this machine with room for `num_cpus`.

    Raises `PoolUnreachable`, and `PoolConfigError` where the cluster refuses us.
    """
    import ray

    if ray.is_initialized():
        yield RaySession(is_ours=False, logs=None)
        return
    with _authentication(own_token=address is None), _silence():
        if address is not None:
            _check_that_it_listens(address)
        settings: dict[str, Any] = {"address": address}
        if address is None:
            settings = {
                "address": "local",
                "num_cpus": num_cpus,
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE_BYTES,
                # What a worker has started ends with it, also when the worker is killed.
                "_system_config": {"process_group_cleanup_enabled": True},
            }
        try:
            with _signal_handlers_kept():
                # CRITICAL: all that goes wrong reaches the caller as a lost worker or an error; Ray logs it besides.
                context = ray.init(**settings, log_to_driver=False, logging_level=logging.CRITICAL)
        except ray.exceptions.AuthenticationError as error:
            raise PoolConfigError(
                f"the Ray cluster at {address} wants a token and none fits: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN "
                f"(or write it to ~/.ray/auth_token) to what `ray get-auth-token` says there ({_first_line(error)})"
            ) from error
        except ConnectionError as error:
            raise PoolUnreachable(str(address), _first_line(error)) from error
        except RuntimeError as error:  # other versions of Ray or Python there
            raise PoolConfigError(f"Ray does not start: {_first_line(error)}") from error
        folder = context.address_info.get("session_dir")
        session = RaySession(is_ours=address is None, logs=Path(folder) / "logs" if folder else None)
        try:
            yield session
        except BaseException:
            session.keep_logs = True
            raise
        finally:
            ray.shutdown(wait_for_processes=True)
            if session.is_ours and session.logs:
                if session.keep_logs:
                    log.info("ray_logs_kept folder=%s", session.logs)
                else:
                    shutil.rmtree(session.logs.parent, ignore_errors=True)


@contextmanager
def _authentication(*, own_token: bool) -> Iterator[None]:
    """Give our own Ray a token that only this process knows, where the user has not settled the matter.

    Without, Ray writes one to the user's home, which need not be writable, and leaves token mode on in this process,
    where the next cluster may have another token or none.
    """
    settled = any(name in os.environ for name in _AUTH_VARIABLES) or _TOKEN_FILE.expanduser().exists()
    make_token = own_token and not settled
    if make_token:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    _reread_authentication()
    try:
        yield
    finally:
        if make_token:
            del os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]


def _check_that_it_listens(address: str) -> None:
    """Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if not host:  # auto
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise PoolUnreachable(address, error) from error


def _reread_authentication() -> None:
    """Ray reads these variables once a process; this makes it look again, with the calls that it uses itself."""
    raylet = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """`ray.init` takes SIGTERM for itself; a stopped run has to flush and report first, which the caller's does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _silence() -> Iterator[None]:
    """No lines of raylets on our standard output: `log_to_driver` leaves out those about workers that died."""
    from ray._private import worker

    worker._worker_logs_enabled = False  # the switch that Ray's own debugger uses
    try:
        yield
    finally:
        worker._worker_logs_enabled = True


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
