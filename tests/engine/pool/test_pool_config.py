"""`pool:` of a job: what is accepted, what is refused and how, and which pool comes of it."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from docmill.engine.pool.config import PoolConfig
from docmill.engine.pool.errors import PoolConfigError
from docmill.engine.pool.inline_pool import InlinePool
from docmill.engine.pool.open_pool import open_pool
from docmill.engine.pool.ray_pool import RayPool


@pytest.fixture(autouse=True)
def _no_ray_address(monkeypatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_nothing_said_is_inline() -> None:
    assert isinstance(open_pool(PoolConfig(), tensor_parallel_size=1, device="auto"), InlinePool)


def test_a_configuration_that_was_written_out_whole_is_read_back() -> None:
    for config in (PoolConfig(), PoolConfig(kind="ray", workers=2)):
        assert PoolConfig.model_validate(config.model_dump()) == config


def test_ray_on_a_cluster() -> None:
    config = PoolConfig(kind="ray", workers=8, address="head:6379", gpus_per_worker=0.5)
    assert isinstance(open_pool(config, tensor_parallel_size=1, device="cuda"), RayPool)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "inline", "workers": 2}, "workers: only for `kind: ray`"),
        ({"workers": 2, "address": "head:6379"}, "address, workers: only for `kind: ray`"),
        ({"kind": "ray"}, "needs `workers`"),
        ({"kind": "ray", "workers": 0}, "greater than 0"),
        ({"kind": "ray", "workers": 2, "gpus": 1}, "Extra inputs are not permitted"),
        ({"kind": "local", "workers": 2}, "'inline' or 'ray'"),
        ({"kind": "ray", "workers": 2, "address": "head"}, "expected host:port"),
        ({"kind": "ray", "workers": 2, "address": "ray://head:10001"}, "expected host:port"),
        ({"kind": "ray", "workers": 2, "gpus_per_worker": 1.5}, "neither a part of one GPU nor whole GPUs"),
    ],
)
def test_a_wrong_pool_is_refused_with_what_was_expected(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PoolConfig.model_validate(settings)


@pytest.mark.parametrize("address", ["auto", "10.0.0.7:6379", "head.cluster.internal:6379", "[fd00::1]:6379"])
def test_addresses_of_clusters(address: str) -> None:
    assert PoolConfig(kind="ray", workers=1, address=address).address == address


def test_an_address_from_the_environment_is_checked_too(monkeypatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    with pytest.raises(PoolConfigError, match="RAY_ADDRESS: 'http://head:8265' is no address"):
        open_pool(PoolConfig(kind="ray", workers=1), tensor_parallel_size=1, device="cpu")


@pytest.mark.parametrize(
    ("gpus", "parts", "device", "message"),
    [
        (1, 1, "cpu", "engine.device is cpu"),
        (1, 2, "cuda", "tensor_parallel_size 2 needs as many GPUs"),
    ],
)
def test_gpus_that_do_not_fit_the_engine(gpus: float, parts: int, device: str, message: str) -> None:
    config = PoolConfig(kind="ray", workers=2, gpus_per_worker=gpus)
    with pytest.raises(PoolConfigError, match=message):
        open_pool(config, tensor_parallel_size=parts, device=device)


def test_without_ray_a_job_for_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PoolConfigError, match=r"pip install 'docmill\[ray\]'"):
        open_pool(PoolConfig(kind="ray", workers=2), tensor_parallel_size=1, device="cpu")


def test_no_module_imports_ray_before_a_run() -> None:
    names = "config errors inline_pool open_pool ray_pool ray_session ray_slot ray_worker types".split()
    imports = "; ".join(f"import docmill.engine.pool.{name}" for name in names)
    program = f"import sys; {imports}; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
