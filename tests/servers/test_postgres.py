"""PostgreSQL checks passwords, and is gone without a trace while somebody is still connected."""

from pathlib import Path

import psutil
import psycopg2
import pytest
from servers.ci_skip import ci_skip
from servers.postgres_server import PostgresServer


def test_it_answers_who_knows_the_password_and_ends_with_its_folder() -> None:
    if PostgresServer.programs() is None:
        ci_skip("PostgreSQL is not installed; tests/servers/install.sh installs it")
    with PostgresServer() as server:
        [(folder,)] = server.query("SHOW data_directory")
        [pid, *_] = Path(str(folder), "postmaster.pid").read_text().split()
        where = {"host": "127.0.0.1", "port": server.env()["DAGSTER_PG_PORT"], "dbname": "postgres"}
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            psycopg2.connect(**where, user="dagster", password="guessed")
        client = psycopg2.connect(**where, user="dagster", password=server.password)
    client.close()
    assert not psutil.pid_exists(int(pid))
    assert not Path(str(folder)).parent.exists()
