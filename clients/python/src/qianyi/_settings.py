"""Where a server is, how it is reached, and when a call is tried again."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import random
import ssl
import time
import urllib.parse
from typing import Union

from qianyi.errors import QianyiError, TimedOutError

KEY_VARIABLE = "QIANYI_KEY"
Certificate = Union[str, "os.PathLike[str]"]


@dataclasses.dataclass(frozen=True)
class Retries:
    """Full servers, used-up quotas and broken connections are tried again: after what the server
    says (Retry-After, RetryInfo), else after a time that doubles. Never once a stream has begun."""

    attempts: int = 3  # in all
    first_seconds: float = 0.5
    most_seconds: float = 60.0  # where the server asks for more, its error is raised at once

    def delay(self, error: QianyiError, attempt: int) -> float | None:
        """Seconds to wait after the attempt of this number, from 1 on; None: give up."""
        if not error.retriable or attempt >= self.attempts:
            return None
        if error.retry_after is None:
            doubled = self.first_seconds * 2.0 ** min(attempt - 1, 30)
            return min(doubled, self.most_seconds) * random.uniform(0.5, 1)
        if error.retry_after > self.most_seconds:
            return None
        return error.retry_after + random.uniform(0, 0.1)  # not all come back at once


class Attempts:
    """The attempts of one call, within its time."""

    def __init__(self, retries: Retries, timeout: float | None) -> None:
        self._retries = retries
        self._timeout = timeout
        self._end = None if timeout is None else time.monotonic() + timeout
        self._made = 0

    def left(self) -> float | None:
        """Seconds that are left, or None for any number."""
        if self._end is None:
            return None
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimedOutError(f"not answered within {self._timeout:g} s")
        return left

    def wait_after(self, error: QianyiError) -> float:
        """Seconds to wait before the next attempt; raises the error where there is none."""
        self._made += 1
        delay = self._retries.delay(error, self._made)
        if delay is None or (self._end is not None and time.monotonic() + delay >= self._end):
            raise error
        return delay


@dataclasses.dataclass(frozen=True)
class Settings:
    """`url` is http://, https://, grpc:// or grpcs://HOST:PORT."""

    url: str
    key: str | None
    timeout: float | None
    retries: Retries
    ca_file: Certificate | None  # else those that the system trusts
    certificate: tuple[Certificate, Certificate] | None  # a file to show, and its key's
    plaintext: bool

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https", "grpc", "grpcs") or not parts.hostname:
            raise ValueError(f"url is {self.url!r}; it must be http://, https://, grpc:// or grpcs:// "
                             "and HOST:PORT")
        if self.key and not self.encrypted and not self.plaintext and not _is_here(parts.hostname):
            raise ValueError(f"the key would travel unencrypted to {parts.hostname}; use https:// or "
                             "grpcs://, or say plaintext=True if the network is yours alone")

    @property
    def over_grpc(self) -> bool:
        return self.url.startswith("grpc")

    @property
    def encrypted(self) -> bool:
        return self.url.startswith(("https:", "grpcs:"))

    @property
    def target(self) -> str:
        return urllib.parse.urlsplit(self.url).netloc

    def ssl_context(self) -> ssl.SSLContext | bool:
        if not self.encrypted:
            return True
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.certificate is not None:
            context.load_cert_chain(*self.certificate)
        return context


def make_settings(url: str, key: str | None, timeout: float | None, retries: Retries | None,
                  ca_file: Certificate | None, certificate: tuple[Certificate, Certificate] | None,
                  plaintext: bool) -> Settings:
    return Settings(url.rstrip("/"), key if key is not None else os.environ.get(KEY_VARIABLE),
                    timeout, retries or Retries(), ca_file, certificate, plaintext)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
