"""Calls over REST, with httpx."""

from __future__ import annotations

import contextlib
import json
from typing import Any, AsyncIterator, Iterator, Mapping

import httpx

from qianyi import errors
from qianyi._request import A, E, EventReader, Json, Request, Streamed
from qianyi._settings import Attempts, Settings


class Events:
    """The data of server-sent events, out of bytes as they come. Lines end with a line feed alone:
    texts may hold what else Unicode ends lines with."""

    def __init__(self, reader: EventReader[E], headers: Mapping[str, str]) -> None:
        self._reader: EventReader[Any] = reader
        self._headers = headers
        self._rest = b""
        self.done = False

    def feed(self, data: bytes) -> Iterator[Any]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if not line.startswith(b"data: "):
                continue
            text = line[len(b"data: "):]
            if text == b"[DONE]":
                self.done = True
                piece = self._reader.finish()
            else:
                piece = self._reader.read(self._checked(json.loads(text)))
            if piece is not None:
                yield piece

    def check_end(self) -> None:
        if not self.done:
            raise errors.UnreachableError("the connection ended before the answer did")

    def _checked(self, event: Json) -> Json:
        if "error" in event:
            raise errors.from_rest(None, event, self._headers)
        return event


def _options(settings: Settings) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {settings.key}"} if settings.key else {}
    return {"base_url": settings.url, "headers": headers, "verify": settings.ssl_context(),
            "limits": httpx.Limits(max_connections=None)}


def _call(request: Request[Any], attempts: Attempts, more: Mapping[str, Any]) -> dict[str, Any]:
    body = request.body()
    verb = request.verb or ("GET" if body is None else "POST")
    return {"method": verb, "url": request.url(),
            "json": None if body is None else {**body, **more},
            "timeout": httpx.Timeout(attempts.left())}


def _error(response: httpx.Response) -> errors.QianyiError:
    try:
        body = response.json()
    except ValueError:
        body = response.text[:200]
    return errors.from_rest(response.status_code, body, response.headers)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except httpx.TimeoutException as error:
        if isinstance(error, httpx.ConnectTimeout):
            raise errors.UnreachableError(f"no server answers: {error}") from error
        raise errors.TimedOutError("not answered in time") from error
    except httpx.TransportError as error:
        raise errors.UnreachableError(f"no server answers: {error}") from error


class RestTransport:

    def __init__(self, settings: Settings) -> None:
        self._http = httpx.Client(**_options(settings))

    def send(self, request: Request[A], attempts: Attempts) -> A:
        with _translated():
            response = self._http.request(**_call(request, attempts, {}))
        if response.status_code != 200:
            raise _error(response)
        return request.read_json(response.json())

    def stream(self, request: Streamed[A, E], attempts: Attempts) -> Iterator[E]:
        call = _call(request, attempts, request.stream_options())
        with _translated(), self._http.stream(**call) as response:
            if response.status_code != 200:
                response.read()
                raise _error(response)
            events = Events(request.reader(), response.headers)
            for data in response.iter_bytes():
                attempts.left()
                yield from events.feed(data)
            events.check_end()

    def close(self) -> None:
        self._http.close()


class AsyncRestTransport:

    def __init__(self, settings: Settings) -> None:
        self._http = httpx.AsyncClient(**_options(settings))

    async def send(self, request: Request[A], attempts: Attempts) -> A:
        with _translated():
            response = await self._http.request(**_call(request, attempts, {}))
        if response.status_code != 200:
            raise _error(response)
        return request.read_json(response.json())

    async def stream(self, request: Streamed[A, E], attempts: Attempts) -> AsyncIterator[E]:
        call = _call(request, attempts, request.stream_options())
        with _translated():
            async with self._http.stream(**call) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise _error(response)
                events = Events(request.reader(), response.headers)
                async for data in response.aiter_bytes():
                    attempts.left()
                    for piece in events.feed(data):
                        yield piece
                events.check_end()

    async def close(self) -> None:
        await self._http.aclose()
