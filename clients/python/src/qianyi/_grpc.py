"""Calls over gRPC, with grpcio."""

from __future__ import annotations

import contextlib
import pathlib
from typing import Any, AsyncIterator, Iterator

import grpc
import grpc.aio

from qianyi import errors
from qianyi._request import A, E, Request, Streamed
from qianyi._settings import Attempts, Settings
from qianyi.v1 import inference_pb2_grpc

_OPTIONS = [("grpc.max_receive_message_length", 256 << 20)]  # many large pictures


def _stub(grpc_module: Any, settings: Settings) -> tuple[Any, Any]:
    """A channel of grpc or grpc.aio, and the methods of the service."""
    if settings.encrypted:
        def read(path: Any) -> bytes | None:
            return pathlib.Path(path).read_bytes() if path else None
        certificate, key = settings.certificate or (None, None)
        credentials = grpc.ssl_channel_credentials(read(settings.ca_file), read(key),
                                                   read(certificate))
        channel = grpc_module.secure_channel(settings.target, credentials, _OPTIONS)
    else:
        channel = grpc_module.insecure_channel(settings.target, _OPTIONS)
    return channel, inference_pb2_grpc.InferenceStub(channel)


class _Calls:
    """What calls of both kinds have in common."""

    def __init__(self, grpc_module: Any, settings: Settings) -> None:
        self._channel, self._methods = _stub(grpc_module, settings)
        self._metadata = [("authorization", f"Bearer {settings.key}")] if settings.key else []

    def begin(self, method: str, request: Request[Any], attempts: Attempts) -> Any:
        return getattr(self._methods, method)(request.message(), timeout=attempts.left(),
                                              metadata=self._metadata)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        metadata = {name: value for name, value in error.trailing_metadata() or ()}
        raise errors.from_grpc(error.code().name, error.details(), metadata) from error


def _last(message: Any) -> Any:
    if message is None:
        raise errors.UnreachableError("the stream ended before the answer came")
    return message


class GrpcTransport(_Calls):

    def __init__(self, settings: Settings) -> None:
        super().__init__(grpc, settings)

    def send(self, request: Request[A], attempts: Attempts) -> A:
        with _translated():
            answer = self.begin(request.call, request, attempts)
            if request.gathers:
                last = None
                for last in answer:
                    pass
                answer = _last(last)
        return request.read_message(answer)

    def stream(self, request: Streamed[A, E], attempts: Attempts) -> Iterator[E]:
        with _translated():
            call = self.begin(request.stream_call, request, attempts)
            try:
                for message in call:
                    piece = request.read_chunk(message)
                    if piece is not None:
                        yield piece
            finally:
                call.cancel()

    def close(self) -> None:
        self._channel.close()


class AsyncGrpcTransport(_Calls):

    def __init__(self, settings: Settings) -> None:
        super().__init__(grpc.aio, settings)

    async def send(self, request: Request[A], attempts: Attempts) -> A:
        with _translated():
            answer = self.begin(request.call, request, attempts)
            if request.gathers:
                last = None
                async for last in answer:
                    pass
                message = _last(last)
            else:
                message = await answer
        return request.read_message(message)

    async def stream(self, request: Streamed[A, E], attempts: Attempts) -> AsyncIterator[E]:
        with _translated():
            call = self.begin(request.stream_call, request, attempts)
            try:
                async for message in call:
                    piece = request.read_chunk(message)
                    if piece is not None:
                        yield piece
            finally:
                call.cancel()

    async def close(self) -> None:
        await self._channel.close()
