"""Whom Dagster tells when a run over a job's assets has failed: `on_failure` of the job."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, SecretStr, field_validator


class OnFailure(BaseModel):
    """A hook that gets a POST with a little JSON about the run: nothing of a document, no secret."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    url: SecretStr
    """Whoever knows it may post there: `${NAME}` or `${NAME:-}`, of the environment. Empty: nobody is told."""
    dagster_url: str = ""
    """Where Dagster's pages answer, as https://dagster.example.com, for a link to the run."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr) -> SecretStr:
        """Never says the value."""
        if url.get_secret_value() and not _is_web_address(url.get_secret_value()):
            raise ValueError("is no address of a hook; expected https://... or http://...")
        return url

    @field_validator("dagster_url")
    @classmethod
    def _check_dagster_url(cls, url: str) -> str:
        if url and not _is_web_address(url):
            raise ValueError(f"{url!r} is no address; expected one such as https://dagster.example.com")
        return url.rstrip("/")


def _is_web_address(url: str) -> bool:
    if not (url.isascii() and url.isprintable()) or " " in url:
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False
