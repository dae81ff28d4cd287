"""The proxy breaks what it says it breaks, as often as it counts, and nothing else."""

import http.client
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from s3fs import S3FileSystem
from servers.faulty_proxy import Fault, FaultyProxy
from servers.s3_server import S3Server, free_port


def ask(proxy: FaultyProxy) -> str:
    """What becomes of one request: the answer's status, or the exception's name."""
    address = urlsplit(proxy.s3.endpoint_url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        return str(answer.status)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def test_without_faults_it_is_not_noticed(moto_server: S3Server) -> None:
    with FaultyProxy(moto_server) as proxy:
        s3 = S3FileSystem(**proxy.s3.storage_options())
        uri = proxy.s3.uri("test_faulty_proxy/a")
        content = bytes(range(256)) * 20_000
        s3.pipe_file(uri, content)
        assert s3.cat_file(uri) == content
        assert s3.cat_file(uri, start=5, end=7) == b"\x05\x06"
        assert s3.info(uri)["size"] == len(content)
        s3.rm_file(uri)
        assert not s3.exists(uri)
        assert proxy.num_requests >= 5
        assert not proxy.injected


def test_the_same_seed_breaks_the_same_requests(moto_server: S3Server) -> None:
    outcomes = []
    for seed in (3, 3, 4):
        with FaultyProxy(moto_server, seed=seed, rates={Fault.SLOW_DOWN: 0.3, Fault.RESET: 0.3}) as proxy:
            outcomes.append([ask(proxy) for _ in range(30)])
            assert outcomes[-1].count("503") == proxy.injected[Fault.SLOW_DOWN] > 0
            assert outcomes[-1].count("ConnectionResetError") == proxy.injected[Fault.RESET] > 0
            assert outcomes[-1].count("200") == 30 - proxy.injected.total() > 0
    assert outcomes[0] == outcomes[1] != outcomes[2]


def test_it_can_be_switched_off_and_on(moto_server: S3Server) -> None:
    with FaultyProxy(moto_server, rates={Fault.SLOW_DOWN: 1.0}) as proxy:
        assert ask(proxy) == "503"
        proxy.off()
        assert ask(proxy) == "200"
        proxy.on()
        assert ask(proxy) == "503"


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Fault.SLOW_DOWN, "503"),
        (Fault.RESET, "ConnectionResetError"),
        (Fault.LOST_ANSWER, "ConnectionResetError"),
        (Fault.TORN_ANSWER, "IncompleteRead"),
    ],
    ids=lambda value: value.name.lower() if isinstance(value, Fault) else "",
)
def test_a_fault_hits_the_next_request_and_no_other(
    fault: Fault, outcome: str, moto_server: S3Server
) -> None:
    with FaultyProxy(moto_server) as proxy:
        proxy.fail_next(fault, method="GET")
        assert [ask(proxy) for _ in range(2)] in ([outcome, "200"], ["ConnectionResetError", "200"])
        assert proxy.injected == {fault: 1}


def test_a_server_that_is_gone_is_a_reset(moto_server: S3Server) -> None:
    gone = replace(moto_server, endpoint_url=f"http://127.0.0.1:{free_port()}")
    with FaultyProxy(gone) as proxy:
        assert ask(proxy) == "ConnectionResetError"
