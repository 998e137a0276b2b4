"""What all requests share: a call as it is over REST, and as it is over gRPC."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Generic, Mapping, Protocol, TypeVar

from qianyi.types import Usage

A = TypeVar("A")  # the answer
E = TypeVar("E")  # an event of its stream
E_co = TypeVar("E_co", covariant=True)
Json = Mapping[str, Any]


class Request(Generic[A]):
    """A call whose answer comes at once."""

    path: ClassVar[str]
    verb: ClassVar[str | None] = None  # POST with a body, else GET
    call: ClassVar[str]  # the method of qianyi.v1.Inference
    gathers: ClassVar[bool] = False  # over gRPC it is a stream whose last message is the answer

    def url(self) -> str:
        return self.path

    def body(self) -> dict[str, Any] | None:
        raise NotImplementedError

    def message(self) -> Any:
        raise NotImplementedError

    def read_json(self, value: Json) -> A:
        raise NotImplementedError

    def read_message(self, message: Any) -> A:
        raise NotImplementedError


class EventReader(Protocol[E_co]):
    """Reads the events of one REST stream in order."""

    def read(self, event: Json) -> E_co | None: ...

    def finish(self) -> E_co | None: ...


class Streamed(Request[A], Generic[A, E]):
    """A call whose answer may also come bit by bit."""

    stream_call: ClassVar[str]

    def stream_options(self) -> dict[str, Any]:
        """What its REST body has when it streams."""
        return {"stream": True}

    def reader(self) -> EventReader[E]:
        raise NotImplementedError

    def read_chunk(self, message: Any) -> E | None:
        raise NotImplementedError


def fields_of(request: Any) -> dict[str, Any]:
    """A dataclass's fields that are set: the rest have the server's defaults."""
    values = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    return {name: value for name, value in values.items() if value is not None}


def usage_of(value: Any) -> Usage:
    """Of JSON, where embeddings say nothing of completions, or of a message."""
    if not isinstance(value, dict):
        return Usage(value.prompt_tokens, value.completion_tokens, value.total_tokens,
                     value.cached_tokens)
    return Usage(value["prompt_tokens"], value.get("completion_tokens", 0), value["total_tokens"],
                 value.get("prompt_tokens_details", {}).get("cached_tokens", 0))
