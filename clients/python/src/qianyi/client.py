"""The clients: `Client` blocks, `AsyncClient` is for asyncio. Their methods are the same."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from typing import (Any, AsyncGenerator, AsyncIterator, Awaitable, Callable, Concatenate, Generator,
                    Generic, Iterator, ParamSpec)

from qianyi import pictures, texts, tokens
from qianyi._request import A, E, Request, Streamed
from qianyi._settings import Attempts, Certificate, Retries, make_settings
from qianyi.errors import QianyiError

P = ParamSpec("P")
DEFAULT_URL = "http://127.0.0.1:8080"


def _like(method: Any, make: Callable[..., Any]) -> Any:
    """A method with the name, the documentation and the parameters of what it makes."""
    functools.update_wrapper(method, make, assigned=("__name__", "__doc__"), updated=())
    own = list(inspect.signature(make).parameters.values())
    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__signature__ = inspect.Signature([me, *own])
    return method


class Stream(Generic[E]):
    """The pieces of an answer as they come. Leaving it early (close, or the end of a with block)
    ends the work on the server."""

    def __init__(self, pieces: Generator[E, None, None]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[E]:
        return self._pieces

    def __next__(self) -> E:
        return next(self._pieces)

    def close(self) -> None:
        self._pieces.close()

    def __enter__(self) -> Stream[E]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncStream(Generic[E]):
    """The same for asyncio."""

    def __init__(self, pieces: AsyncGenerator[E, None]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> AsyncIterator[E]:
        return self._pieces

    async def __anext__(self) -> E:
        return await self._pieces.__anext__()

    async def close(self) -> None:
        await self._pieces.aclose()

    async def __aenter__(self) -> AsyncStream[E]:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _sends(make: Callable[P, Request[A]]) -> Callable[Concatenate[Client, P], A]:
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> A:
        return self.send(make(*args, **kwargs))
    return _like(method, make)  # type: ignore[no-any-return]


def _streams(make: Callable[P, Streamed[A, E]]) -> Callable[Concatenate[Client, P], Stream[E]]:
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Stream[E]:
        return self.stream(make(*args, **kwargs))
    return _like(method, make)  # type: ignore[no-any-return]


class Client:
    """A server, by its address: http:// and https:// for REST, grpc:// and grpcs:// for gRPC.

    `key` is that of the environment's QIANYI_KEY unless it is given. `timeout` is for a whole call
    and what is tried again of it, in seconds. Threads may share a client."""

    def __init__(self, url: str = DEFAULT_URL, *, key: str | None = None,
                 timeout: float | None = 600, retries: Retries | None = None,
                 ca_file: Certificate | None = None,
                 certificate: tuple[Certificate, Certificate] | None = None,
                 plaintext: bool = False) -> None:
        self._settings = make_settings(url, key, timeout, retries, ca_file, certificate, plaintext)
        if self._settings.over_grpc:
            from qianyi._grpc import GrpcTransport  # loaded where it is used
            self._transport: Any = GrpcTransport(self._settings)
        else:
            from qianyi._rest import RestTransport
            self._transport = RestTransport(self._settings)

    def send(self, request: Request[A]) -> A:
        attempts = Attempts(self._settings.retries, self._settings.timeout)
        while True:
            try:
                answer: A = self._transport.send(request, attempts)
                return answer
            except QianyiError as error:
                delay = attempts.wait_after(error)
            time.sleep(delay)

    def stream(self, request: Streamed[A, E]) -> Stream[E]:
        return Stream(self._pieces(request))

    def _pieces(self, request: Streamed[A, E]) -> Generator[E, None, None]:
        attempts = Attempts(self._settings.retries, self._settings.timeout)
        begun = False
        while True:
            try:
                for piece in self._transport.stream(request, attempts):
                    begun = True
                    yield piece
                return
            except QianyiError as error:
                if begun:
                    raise
                delay = attempts.wait_after(error)
            time.sleep(delay)

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    poem = _sends(texts.Poem)
    couplet = _sends(texts.Couplet)
    summary = _sends(texts.Summary)
    qa = _sends(texts.Question)
    complete = _sends(texts.Completion)
    chat = _sends(texts.Chat)
    stream_poem = _streams(texts.Poem)
    stream_couplet = _streams(texts.Couplet)
    stream_summary = _streams(texts.Summary)
    stream_qa = _streams(texts.Question)
    stream_complete = _streams(texts.Completion)
    stream_chat = _streams(texts.Chat)
    generate_image = _sends(pictures.GenerateImage)
    edit_image = _sends(pictures.EditImage)
    caption_image = _sends(pictures.CaptionImage)
    stream_image = _streams(pictures.GenerateImage)
    stream_edit = _streams(pictures.EditImage)
    embed = _sends(tokens.Embed)
    score = _sends(tokens.ScoreTexts)
    tokenize = _sends(tokens.Tokenize)
    detokenize = _sends(tokens.Detokenize)
    models = _sends(tokens.ListModels)
    load_adapter = _sends(tokens.LoadAdapter)
    unload_adapter = _sends(tokens.UnloadAdapter)
    server = _sends(tokens.GetServerInfo)


def _awaits(make: Callable[P, Request[A]]) -> Callable[Concatenate[AsyncClient, P], Awaitable[A]]:
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> A:
        return await self.send(make(*args, **kwargs))
    return _like(method, make)  # type: ignore[no-any-return]


def _streams_async(make: Callable[P, Streamed[A, E]]
                   ) -> Callable[Concatenate[AsyncClient, P], AsyncStream[E]]:
    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncStream[E]:
        return self.stream(make(*args, **kwargs))
    return _like(method, make)  # type: ignore[no-any-return]


class AsyncClient:
    """`Client` for asyncio; belongs to the event loop in which it is first used."""

    def __init__(self, url: str = DEFAULT_URL, *, key: str | None = None,
                 timeout: float | None = 600, retries: Retries | None = None,
                 ca_file: Certificate | None = None,
                 certificate: tuple[Certificate, Certificate] | None = None,
                 plaintext: bool = False) -> None:
        self._settings = make_settings(url, key, timeout, retries, ca_file, certificate, plaintext)
        self._opened: Any = None

    @property
    def _transport(self) -> Any:
        if self._opened is None:
            if self._settings.over_grpc:
                from qianyi._grpc import AsyncGrpcTransport
                self._opened = AsyncGrpcTransport(self._settings)
            else:
                from qianyi._rest import AsyncRestTransport
                self._opened = AsyncRestTransport(self._settings)
        return self._opened

    async def send(self, request: Request[A]) -> A:
        attempts = Attempts(self._settings.retries, self._settings.timeout)
        while True:
            try:
                answer: A = await self._transport.send(request, attempts)
                return answer
            except QianyiError as error:
                delay = attempts.wait_after(error)
            await asyncio.sleep(delay)

    def stream(self, request: Streamed[A, E]) -> AsyncStream[E]:
        return AsyncStream(self._pieces(request))

    async def _pieces(self, request: Streamed[A, E]) -> AsyncGenerator[E, None]:
        attempts = Attempts(self._settings.retries, self._settings.timeout)
        begun = False
        while True:
            pieces = self._transport.stream(request, attempts)
            try:
                async for piece in pieces:
                    begun = True
                    yield piece
                return
            except QianyiError as error:
                if begun:
                    raise
                delay = attempts.wait_after(error)
            finally:
                await pieces.aclose()  # now, not when it is collected
            await asyncio.sleep(delay)

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    poem = _awaits(texts.Poem)
    couplet = _awaits(texts.Couplet)
    summary = _awaits(texts.Summary)
    qa = _awaits(texts.Question)
    complete = _awaits(texts.Completion)
    chat = _awaits(texts.Chat)
    stream_poem = _streams_async(texts.Poem)
    stream_couplet = _streams_async(texts.Couplet)
    stream_summary = _streams_async(texts.Summary)
    stream_qa = _streams_async(texts.Question)
    stream_complete = _streams_async(texts.Completion)
    stream_chat = _streams_async(texts.Chat)
    generate_image = _awaits(pictures.GenerateImage)
    edit_image = _awaits(pictures.EditImage)
    caption_image = _awaits(pictures.CaptionImage)
    stream_image = _streams_async(pictures.GenerateImage)
    stream_edit = _streams_async(pictures.EditImage)
    embed = _awaits(tokens.Embed)
    score = _awaits(tokens.ScoreTexts)
    tokenize = _awaits(tokens.Tokenize)
    detokenize = _awaits(tokens.Detokenize)
    models = _awaits(tokens.ListModels)
    load_adapter = _awaits(tokens.LoadAdapter)
    unload_adapter = _awaits(tokens.UnloadAdapter)
    server = _awaits(tokens.GetServerInfo)
