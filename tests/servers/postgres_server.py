"""A real PostgreSQL from Debian's package, on loopback, with a database of its own; it starts in about 2 seconds.

It refuses to run as root: then it runs as `postgres`, the user that the package makes, in a folder below /tmp that is
that user's (pytest's own folders are closed to others).
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from servers.process import ServerProcess
from servers.s3_server import free_port

DEBIANS_FOLDERS = Path("/usr/lib/postgresql")
ROOT = 0


class PostgresServer:
    """Use as a context manager. Its password is checked, as elsewhere."""

    def __init__(self) -> None:
        self._port = free_port()
        self._user = "postgres" if os.geteuid() == ROOT else None
        self._folder: Path | None = None
        self._process: ServerProcess | None = None
        self.password = "docmill/secret@1%"  # as generated ones are: an address would need it encoded

    @staticmethod
    def programs() -> Path | None:
        """Folder of the newest `initdb` and `postgres`; None where they are not installed, see install.sh."""
        if found := shutil.which("initdb"):
            return Path(found).resolve().parent
        versions = sorted(
            DEBIANS_FOLDERS.glob("*/bin/initdb"), key=lambda path: float(path.parent.parent.name)
        )
        return versions[-1].parent if versions else None

    def __enter__(self) -> "PostgresServer":
        self._folder = Path(tempfile.mkdtemp(prefix="docmill-postgres-"))
        try:
            self._create(self._folder)
            self._start(self._folder)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends it, whoever is still connected, and removes the folder. May be called again."""
        if self._process is not None:
            self._process.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder)
        self._process = self._folder = None

    def env(self) -> dict[str, str]:
        """The environment that leads Dagster to it."""
        return {
            "DAGSTER_PG_HOST": "127.0.0.1",
            "DAGSTER_PG_PORT": str(self._port),
            "DAGSTER_PG_DB": "postgres",
            "DAGSTER_PG_USERNAME": "dagster",
            "DAGSTER_PG_PASSWORD": self.password,
        }

    def query(self, sql: str) -> list[tuple[object, ...]]:
        """The rows of one SQL statement."""
        import psycopg2

        connection = psycopg2.connect(
            host="127.0.0.1",
            port=self._port,
            dbname="postgres",
            user="dagster",
            password=self.password,
            connect_timeout=5,
        )
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall()
        finally:
            connection.close()

    def _create(self, folder: Path) -> None:
        if self._user is not None:
            shutil.chown(folder, self._user, self._user)
        password_file = folder / "password"
        password_file.write_text(self.password)
        options = ["--username=dagster", f"--pwfile={password_file}", "--auth=scram-sha-256", "--no-sync"]
        result = subprocess.run(
            [str(self._program("initdb")), f"--pgdata={folder}/data", "--encoding=UTF8", *options],
            user=self._user,
            group=self._user,
            extra_groups=None if self._user is None else [],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if result.returncode != 0:
            raise RuntimeError(f"initdb failed ({result.returncode}): {result.stderr.strip()[-800:]}")

    def _start(self, folder: Path) -> None:
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        self._process = ServerProcess(
            str(self._program("postgres")), "-D", f"{folder}/data", "-p", str(self._port),
            *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
            log=folder / "postgres.log",
            user=self._user,
            stop_signal=signal.SIGINT,  # SIGTERM would wait until the last client has gone
        )  # fmt: skip
        self._wait()

    def _wait(self) -> None:
        import psycopg2

        assert self._process is not None
        end = time.monotonic() + 60
        while True:
            self._process.check_alive()
            try:
                self.query("SELECT 1")
            except psycopg2.OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
            else:
                return

    def _program(self, name: str) -> Path:
        folder = self.programs()
        assert folder is not None, "PostgreSQL is not installed; tests/servers/install.sh installs it"
        return folder / name
