"""moto's S3: starts in seconds and needs nothing but Python, but accepts any key and forgets all when it ends.

A process of its own, not moto's thread in ours: its threads and its warnings then stay out of the tests.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servers.process import ServerProcess
from servers.s3_server import S3Server, free_port


@contextmanager
def moto_server(folder: Path) -> Iterator[S3Server]:
    """Runs it with its log in `folder` and yields it with an empty bucket."""
    port = free_port()
    program = Path(__file__).with_name("moto_program.py")
    process = ServerProcess(sys.executable, "-P", str(program), str(port), log=folder / "moto.log")
    try:
        process.wait_for_http(port)
        server = S3Server(f"http://127.0.0.1:{port}", "moto-key", "moto-secret", bucket="docmill")
        server.create_bucket()
        yield server
    finally:
        process.stop()
