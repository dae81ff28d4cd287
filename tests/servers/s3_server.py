"""What a test needs to know of an S3 server that runs for it: where it is and how to enter."""

import socket
from dataclasses import dataclass, field
from random import SystemRandom


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server with one empty bucket. A session's tests share it: each takes a prefix of its own."""

    endpoint_url: str
    access_key: str
    secret_key: str = field(repr=False)
    bucket: str

    def uri(self, path: str = "") -> str:
        """`s3://bucket/path`."""
        return f"s3://{self.bucket}/{path}".rstrip("/")

    def env(self) -> dict[str, str]:
        """The environment that leads every S3 client of ours (botocore, s3fs, pyarrow, polars, DuckDB) to it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",  # polars' object store refuses http without it
            # Newer SDKs send checksum trailers that Ceph 16 cannot read. They may go with Ceph 18.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }

    def storage_options(self) -> dict[str, object]:
        """The same for `s3fs.S3FileSystem(**...)` or `fsspec.open(..., **...)`, where no environment is wanted."""
        return {
            "key": self.access_key,
            "secret": self.secret_key,
            "endpoint_url": self.endpoint_url,
            "client_kwargs": {"region_name": "us-east-1"},
            "config_kwargs": {
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            },
        }

    def create_bucket(self) -> None:
        """Done by whoever starts the server."""
        import boto3  # half a second, which tests without a server need not spend

        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=self.bucket)
        client.close()


def free_port() -> int:
    """A loopback port that nobody listens on, below the range from which outgoing connections take theirs.

    So that a server killed and started again finds its port still free.
    """
    for port in SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port among 100 tried between 20000 and 32000 on 127.0.0.1")
