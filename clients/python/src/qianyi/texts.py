"""Requests for text."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal, Mapping, Sequence

from qianyi._request import EventReader, Json, Streamed, fields_of, usage_of
from qianyi.types import (Answer, Choice, FinishReason, Message, Piece, TokenLogprob, Tool,
                          ToolCall)
from qianyi.v1 import inference_pb2

_PARAMETERS = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty",
               "presence_penalty", "frequency_penalty", "seed", "n", "best_of", "top_logprobs")
_FINISH: Mapping[int, FinishReason] = {1: "stop", 2: "length", 3: "tool_calls"}


def _call_of_json(value: Json) -> ToolCall:
    return ToolCall(value["id"], value["function"]["name"], value["function"]["arguments"])


def _call_of_message(value: Any) -> ToolCall:
    return ToolCall(value.id, value.name, value.arguments)


def _logprob_of_json(value: Json) -> TokenLogprob:
    return TokenLogprob(value["token"], value["logprob"],
                        tuple(map(_logprob_of_json, value.get("top_logprobs", ()))))


def _logprob_of_message(value: Any) -> TokenLogprob:
    text = value.piece.decode(errors="replace") if value.piece else f"token_id:{value.token}"
    return TokenLogprob(text, value.logprob,
                        tuple(map(_logprob_of_message, getattr(value, "top", ()))))


def _logprobs_of_json(value: Json | None) -> tuple[TokenLogprob, ...]:
    """Of a chat's choice, or in the older form of a completion's."""
    if value is None:
        return ()
    if "content" in value:
        return tuple(map(_logprob_of_json, value["content"]))
    tops: Sequence[Mapping[str, float]] = value["top_logprobs"] or [{}] * len(value["tokens"])

    def best(top: Mapping[str, float]) -> tuple[TokenLogprob, ...]:
        others = [TokenLogprob(text, logprob) for text, logprob in top.items()]
        return tuple(sorted(others, key=lambda other: -other.logprob))

    return tuple(TokenLogprob(token, logprob, best(top)) for token, logprob, top in
                 zip(value["tokens"], value["token_logprobs"], tops))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Text(Streamed[Answer, Piece]):
    """Parameters of all texts; what is None has the server's default, or the model's."""

    call = "Generate"
    stream_call = "GenerateStream"

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    logit_bias: Mapping[int, float] | None = None

    def body(self) -> dict[str, Any]:
        body = fields_of(self)
        if self.logit_bias is not None:
            body["logit_bias"] = {str(token): bias for token, bias in self.logit_bias.items()}
        if self.stop is not None and not isinstance(self.stop, str):
            body["stop"] = list(self.stop)
        return body

    def message(self) -> Any:
        request = inference_pb2.GenerateRequest(model=self.model or "")
        given = fields_of(self)
        for name in _PARAMETERS:
            if name in given:
                setattr(request.parameters, name, given[name])
        if self.stop is not None:
            request.parameters.stop.extend([self.stop] if isinstance(self.stop, str) else self.stop)
        for token, bias in (self.logit_bias or {}).items():
            request.parameters.logit_bias[str(token)] = bias
        self.set_input(request, given)
        return request

    def set_input(self, request: Any, given: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def read_message(self, message: Any) -> Answer:
        choices = tuple(
            Choice(choice.text, tuple(choice.blanks), _FINISH[choice.finish_reason],
                   choice.reasoning, tuple(map(_call_of_message, choice.tool_calls)),
                   tuple(map(_logprob_of_message, choice.logprobs)))
            for choice in message.choices)
        return Answer(message.id, message.model, choices, usage_of(message.usage), message.seed,
                      tuple(message.choices[0].lines))

    def read_chunk(self, message: Any) -> Piece:
        return Piece(message.text, message.index, message.blank, message.reasoning,
                     _call_of_message(message.tool_call) if message.HasField("tool_call") else None,
                     _FINISH.get(message.finish_reason),
                     usage_of(message.usage) if message.HasField("usage") else None,
                     tuple(map(_logprob_of_message, message.logprobs)))


class _TaskReader:

    def read(self, event: Json) -> Piece:
        if "delta" in event:
            return Piece(event["delta"])
        return Piece(finish_reason=event["finish_reason"], usage=usage_of(event["usage"]))

    def finish(self) -> None:
        return None


@dataclasses.dataclass(frozen=True)
class _Task(_Text):
    """The tasks have fields of the same names over REST and gRPC."""

    def set_input(self, request: Any, given: Mapping[str, Any]) -> None:
        part = getattr(request, self.path.rpartition("/")[2].replace("qa", "question"))
        part.SetInParent()
        for field in part.DESCRIPTOR.fields:
            if field.name in given:
                setattr(part, field.name, given[field.name])

    def read_json(self, value: Json) -> Answer:
        choice = Choice(value["text"], (value["text"],), value["finish_reason"])
        return Answer(value["id"], value["model"], (choice,), usage_of(value["usage"]), value["seed"],
                      tuple(value["lines"]))

    def reader(self) -> EventReader[Piece]:
        return _TaskReader()


@dataclasses.dataclass(frozen=True)
class Poem(_Task):
    """A poem that keeps its form: "五绝", "七绝", "五律", "七律" or a tune."""

    path = "/v1/tasks/poem"
    title: str
    form: str | None = dataclasses.field(default=None, kw_only=True)
    author: str | None = dataclasses.field(default=None, kw_only=True)
    rhyme: bool | None = dataclasses.field(default=None, kw_only=True)
    tones: bool | None = dataclasses.field(default=None, kw_only=True)


@dataclasses.dataclass(frozen=True)
class Couplet(_Task):
    """The lower line of a couplet."""

    path = "/v1/tasks/couplet"
    upper: str
    tones: bool | None = dataclasses.field(default=None, kw_only=True)


@dataclasses.dataclass(frozen=True)
class Summary(_Task):
    """A short text about a longer one."""

    path = "/v1/tasks/summary"
    text: str


@dataclasses.dataclass(frozen=True)
class Question(_Task):
    """A question, answered as `persona` would if one is given."""

    path = "/v1/tasks/qa"
    question: str
    persona: str | None = dataclasses.field(default=None, kw_only=True)


class _ChoiceReader:
    """Events of completions and chats. A call comes in two of them, and is shown as one."""

    def __init__(self) -> None:
        self._begun: dict[tuple[int, int], Json] = {}

    def read(self, event: Json) -> Piece | None:
        if not event["choices"]:
            return Piece(usage=usage_of(event["usage"]))
        choice = event["choices"][0]
        index, finish = choice["index"], choice["finish_reason"]
        logprobs = _logprobs_of_json(choice.get("logprobs"))
        if "delta" not in choice:
            blank = choice.get("blank", {"index": 0, "text": choice["text"]})
            return Piece(blank["text"], index, blank["index"], finish_reason=finish,
                         logprobs=logprobs)
        delta = choice["delta"]
        call = None
        for part in delta.get("tool_calls", ()):
            place = (index, part["index"])
            if place not in self._begun:
                self._begun[place] = part
                return None
            begun = self._begun[place]
            call = ToolCall(begun["id"], begun["function"]["name"], part["function"]["arguments"])
        if "role" in delta:
            return None
        return Piece(delta.get("content") or "", index, 0, delta.get("reasoning_content", ""), call,
                     finish, logprobs=logprobs)

    def finish(self) -> None:
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Choices(_Text):
    """What may be answered several times, and in JSON by a schema."""

    n: int | None = None
    best_of: int | None = None
    top_logprobs: int | None = None  # each token is told of, with so many of the likeliest
    json_schema: Mapping[str, Any] | Literal[True] | None = None  # True: any object

    def body(self) -> dict[str, Any]:
        body = super().body()
        schema = body.pop("json_schema", None)
        if schema is True:
            body["response_format"] = {"type": "json_object"}
        elif schema is not None:
            body["response_format"] = {"type": "json_schema",
                                       "json_schema": {"name": "answer", "schema": schema}}
        return body

    def message(self) -> Any:
        request = super().message()
        if self.json_schema is True:
            request.response_format.json_object = True
        elif self.json_schema is not None:
            request.response_format.json_schema = json.dumps(self.json_schema)
        return request

    def stream_options(self) -> dict[str, Any]:
        return {"stream": True, "stream_options": {"include_usage": True}}

    def reader(self) -> EventReader[Piece]:
        return _ChoiceReader()

    def read_json(self, value: Json) -> Answer:
        return Answer(value["id"], value["model"], tuple(map(self.read_choice, value["choices"])),
                      usage_of(value["usage"]), value["seed"])

    def read_choice(self, choice: Json) -> Choice:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Completion(_Choices):
    """Continues a text, or fills its blanks: [MASK], [sMASK] and [gMASK]."""

    path = "/v1/completions"
    prompt: str
    suffix: str | None = dataclasses.field(default=None, kw_only=True)

    def set_input(self, request: Any, given: Mapping[str, Any]) -> None:
        request.completion.prompt = self.prompt
        request.completion.suffix = self.suffix or ""

    def body(self) -> dict[str, Any]:
        body = super().body()
        if self.top_logprobs is not None:
            body["logprobs"] = body.pop("top_logprobs")
        return body

    def read_choice(self, choice: Json) -> Choice:
        return Choice(choice["text"], tuple(choice["blanks"]), choice["finish_reason"],
                      logprobs=_logprobs_of_json(choice.get("logprobs")))


@dataclasses.dataclass(frozen=True)
class Chat(_Choices):
    """A conversation; a text alone is one message of the user."""

    path = "/v1/chat/completions"
    messages: str | Sequence[Message]
    tools: Sequence[Tool] | None = dataclasses.field(default=None, kw_only=True)
    tool_choice: str | None = dataclasses.field(default=None, kw_only=True)  # or a tool's name
    parallel_tool_calls: bool | None = dataclasses.field(default=None, kw_only=True)
    thinking: bool | None = dataclasses.field(default=None, kw_only=True)

    def parts(self) -> Sequence[Message]:
        if isinstance(self.messages, str):
            return [Message("user", self.messages)]
        return self.messages

    def body(self) -> dict[str, Any]:
        body = super().body()
        body["messages"] = [self._message_json(message) for message in self.parts()]
        if self.top_logprobs is not None:
            body["logprobs"] = True
        if self.tools is not None:
            body["tools"] = [{"type": "function", "function": {
                "name": tool.name, "description": tool.description,
                **({} if tool.parameters is None else {"parameters": tool.parameters})}}
                for tool in self.tools]
        if self.tool_choice not in (None, "auto", "none", "required"):
            body["tool_choice"] = {"type": "function", "function": {"name": self.tool_choice}}
        if self.thinking is not None:
            body["thinking"] = {"type": "enabled" if self.thinking else "disabled"}
        return body

    @staticmethod
    def _message_json(message: Message) -> dict[str, Any]:
        value: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.reasoning is not None:
            value["reasoning_content"] = message.reasoning
        if message.tool_call_id is not None:
            value["tool_call_id"] = message.tool_call_id
        if message.tool_calls:
            value["tool_calls"] = [
                {"id": call.id, "type": "function",
                 "function": {"name": call.name, "arguments": call.arguments}}
                for call in message.tool_calls]
        return value

    def set_input(self, request: Any, given: Mapping[str, Any]) -> None:
        chat = request.chat
        for message in self.parts():
            part = chat.messages.add(role=message.role, content=message.content)
            if message.reasoning is not None:
                part.reasoning = message.reasoning
            part.tool_call_id = message.tool_call_id or ""
            for call in message.tool_calls:
                part.tool_calls.add(id=call.id, name=call.name, arguments=call.arguments)
        for tool in self.tools or ():
            schema = "" if tool.parameters is None else json.dumps(tool.parameters)
            chat.tools.add(name=tool.name, description=tool.description, parameters=schema)
        chat.tool_choice = self.tool_choice or ""
        if self.parallel_tool_calls is not None:
            chat.parallel_tool_calls = self.parallel_tool_calls
        if self.thinking is not None:
            chat.thinking = self.thinking

    def read_choice(self, choice: Json) -> Choice:
        message = choice["message"]
        text = message["content"] or ""
        return Choice(text, (text,), choice["finish_reason"], message.get("reasoning_content", ""),
                      tuple(map(_call_of_json, message.get("tool_calls", ()))),
                      _logprobs_of_json(choice.get("logprobs")))
