"""moto's server and the browser page are there when asked for."""

from s3fs import S3FileSystem
from servers.s3_server import S3Server


def test_what_was_put_can_be_read(moto_server: S3Server) -> None:
    s3 = S3FileSystem(**moto_server.storage_options())
    uri = moto_server.uri("test_moto/a.txt")
    s3.pipe_file(uri, b"one")
    assert s3.cat_file(uri) == b"one"


def test_the_secret_is_not_in_the_repr(moto_server: S3Server) -> None:
    assert moto_server.secret_key not in repr(moto_server)
