"""A real S3 server: Ceph's gateway over a real cluster of one disk, from Debian's packages, on loopback.

    python tests/servers/ceph_server.py        runs one until Ctrl-C, for trying docmill against it by hand

Unlike moto it checks keys and keeps what it has confirmed when its processes are killed. It starts in about 6
seconds; a killed gateway is back in half a second.
"""

import os
import shutil
import subprocess
from pathlib import Path

from servers.process import ServerProcess
from servers.s3_server import S3Server, free_port

COMMANDS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
OSD_UUID = "22222222-2222-3333-4444-555555555555"
FSID = "11111111-2222-3333-4444-555555555555"


class CephServer:
    """A cluster that lives in `folder` (about 50 MB, removed by `stop`). Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mon_port, self._s3_port = free_port(), free_port()
        self.s3 = S3Server(
            f"http://127.0.0.1:{self._s3_port}", "docmill-key", "docmill-secret", bucket="docmill"
        )
        self._env = {"CEPH_CONF": str(folder / "ceph.conf")}
        self._processes: dict[str, ServerProcess] = {}

    @staticmethod
    def missing_commands() -> list[str]:
        """Programs that are not installed; see install.sh."""
        return [command for command in COMMANDS if shutil.which(command) is None]

    def __enter__(self) -> "CephServer":
        try:
            self._create()
            self.start_gateway()
            self._run("radosgw-admin", "user", "create", "--uid=docmill", "--display-name=docmill",
                      f"--access-key={self.s3.access_key}", f"--secret={self.s3.secret_key}")  # fmt: skip
            self.s3.create_bucket()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start_gateway(self) -> None:
        """Returns when it answers."""
        self._start("rgw", "radosgw", "-f", "-n", "client.rgw.a")
        self._processes["rgw"].wait_for_http(self._s3_port)

    def kill_gateway(self) -> None:
        """kill -9 of the process that speaks S3; the disk stays. `start_gateway` brings it back."""
        self._processes.pop("rgw").kill()

    @property
    def gateway_pid(self) -> int:
        """Of the process that speaks S3, for whoever freezes it."""
        return self._processes["rgw"].pid

    def kill_all(self) -> None:
        """kill -9 of the whole cluster, as a power cut. `start_all` brings it back with what it had confirmed."""
        for name in ("rgw", "osd", "mon"):
            self._processes.pop(name).kill()

    def start_all(self) -> None:
        self._start("mon", "ceph-mon", "-f", "-i", "a")
        self._start("osd", "ceph-osd", "-f", "-i", "0")
        self.start_gateway()

    def stop(self) -> None:
        """Ends every process and removes the folder. May be called again."""
        for name in ("rgw", "osd", "mon"):
            if process := self._processes.pop(name, None):
                process.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _create(self) -> None:
        (self.folder / "mon").mkdir(parents=True)
        (self.folder / "osd").mkdir()
        config = Path(__file__).with_name("ceph.conf").read_text()
        values = {"FOLDER": self.folder, "MON_PORT": self._mon_port, "S3_PORT": self._s3_port}
        for name, value in values.items():
            config = config.replace(f"@{name}@", str(value))
        (self.folder / "ceph.conf").write_text(config)
        monmap = str(self.folder / "monmap")
        self._run(
            "monmaptool",
            "--create",
            "--fsid",
            FSID,
            "--addv",
            "a",
            f"[v2:127.0.0.1:{self._mon_port}]",
            monmap,
        )
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        self._start("mon", "ceph-mon", "-f", "-i", "a")
        self._run("ceph", "--connect-timeout", "20", "osd", "new", OSD_UUID, "0")
        self._run("ceph", "osd", "crush", "add", "osd.0", "1.0", "root=default")
        self._run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", OSD_UUID)
        self._start("osd", "ceph-osd", "-f", "-i", "0")

    def _start(self, name: str, *command: str) -> None:
        self._processes[name] = ServerProcess(*command, log=self.folder / f"{name}.out", env=self._env)

    def _run(self, *command: str) -> None:
        result = subprocess.run(
            command,
            env={**os.environ, **self._env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if result.returncode != 0:
            for process in self._processes.values():
                process.check_alive()  # where a server has died, its log says more than the client's words
            raise RuntimeError(
                f"{' '.join(command)} failed ({result.returncode}): {result.stderr.strip()[-800:]}"
            )


def main() -> None:
    import signal
    import tempfile

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        tempfile.TemporaryDirectory(prefix="docmill-ceph-") as folder,
        CephServer(Path(folder) / "cluster") as server,
    ):
        print("\n".join(f"export {name}={value}" for name, value in server.s3.env().items()))
        print(f"# running with bucket {server.s3.bucket}; Ctrl-C ends it and removes all", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
