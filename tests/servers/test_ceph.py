"""The Ceph server does what the storage tests rely on."""

import pytest
from s3fs import S3FileSystem
from servers.ceph_server import CephServer

pytestmark = pytest.mark.s3


@pytest.fixture
def s3(ceph_server: CephServer) -> S3FileSystem:
    return S3FileSystem(**ceph_server.s3.storage_options())


def test_what_was_put_can_be_listed_and_read(s3: S3FileSystem, ceph_server: CephServer) -> None:
    folder = ceph_server.s3.uri("test_ceph/put")
    s3.pipe_file(f"{folder}/a.txt", b"one")
    s3.pipe_file(f"{folder}/deeper/b.txt", b"two")

    assert [path.rsplit("/", 1)[1] for path in s3.ls(folder)] == ["a.txt", "deeper"]
    assert s3.cat_file(f"{folder}/deeper/b.txt") == b"two"


def test_the_environment_alone_leads_there(ceph_server: CephServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ceph_server.s3.env().items():
        monkeypatch.setenv(name, value)
    uri = ceph_server.s3.uri("test_ceph/env.txt")
    S3FileSystem().pipe_file(uri, b"found")
    assert S3FileSystem().cat_file(uri) == b"found"


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": "nobody"},
        {"secret": "not-the-secret"},
        {"key": None, "secret": None, "anon": True},
    ],
    ids=["key", "secret", "anonymous"],
)
def test_a_wrong_key_is_refused(ceph_server: CephServer, wrong: dict[str, object]) -> None:
    s3 = S3FileSystem(**(ceph_server.s3.storage_options() | wrong))
    with pytest.raises(PermissionError):
        s3.pipe_file(ceph_server.s3.uri("test_ceph/refused.txt"), b"never")


@pytest.mark.parametrize("killed", ["gateway", "all"])
def test_what_it_confirmed_survives_kill_9(ceph_server: CephServer, s3: S3FileSystem, killed: str) -> None:
    uri = ceph_server.s3.uri(f"test_ceph/kill-{killed}.bin")
    content = bytes(range(256)) * 4096  # 1 MB: more than fits the gateway's first chunk of an object
    s3.pipe_file(uri, content)

    if killed == "gateway":
        ceph_server.kill_gateway()
        ceph_server.start_gateway()
    else:
        ceph_server.kill_all()
        ceph_server.start_all()

    assert s3.cat_file(uri) == content


def test_of_two_writers_with_if_none_match_only_one_wins(ceph_server: CephServer, s3: S3FileSystem) -> None:
    bucket, key = ceph_server.s3.bucket, "test_ceph/manifest.json"
    s3.call_s3("put_object", Bucket=bucket, Key=key, Body=b"first", IfNoneMatch="*")
    # s3fs has no name for status 412: it raises a plain OSError, with botocore's error as its cause.
    with pytest.raises(OSError, match="Errno 22") as refused:
        s3.call_s3("put_object", Bucket=bucket, Key=key, Body=b"second", IfNoneMatch="*")
    assert refused.value.__cause__.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    assert s3.cat_file(f"{bucket}/{key}") == b"first"
