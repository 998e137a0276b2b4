"""Requests for vectors, scores and tokens, and about the server itself."""

from __future__ import annotations

import dataclasses
import urllib.parse
from typing import Any, Sequence

from qianyi._request import Json, Request, fields_of, usage_of
from qianyi.types import Embeddings, Model, PictureModel, Score, Scores, ServerInfo
from qianyi.v1 import inference_pb2


@dataclasses.dataclass(frozen=True)
class Embed(Request[Embeddings]):
    """Vectors of texts, or of lists of token ids."""

    path = "/v1/embeddings"
    call = "Embed"
    inputs: Sequence[str | Sequence[int]]
    model: str | None = dataclasses.field(default=None, kw_only=True)

    def body(self) -> dict[str, Any]:
        body = fields_of(self)
        body["input"] = body.pop("inputs")
        return body

    def message(self) -> Any:
        request = inference_pb2.EmbedRequest(model=self.model or "")
        for given in self.inputs:
            if isinstance(given, str):
                request.inputs.add(text=given)
            else:
                request.inputs.add().tokens.ids.extend(given)
        return request

    def read_json(self, value: Json) -> Embeddings:
        return Embeddings(value["model"], tuple(tuple(entry["embedding"]) for entry in value["data"]),
                          usage_of(value["usage"]))

    def read_message(self, message: Any) -> Embeddings:
        return Embeddings(message.model, tuple(tuple(one.values) for one in message.embeddings),
                          usage_of(message.usage))


@dataclasses.dataclass(frozen=True)
class ScoreTexts(Request[Scores]):
    """How likely each continuation is after the prompt, or in its blank."""

    path = "/v1/score"
    call = "Score"
    prompt: str
    continuations: Sequence[str]
    model: str | None = dataclasses.field(default=None, kw_only=True)

    def body(self) -> dict[str, Any]:
        return {**fields_of(self), "continuations": list(self.continuations)}

    def message(self) -> Any:
        return inference_pb2.ScoreRequest(**self.body())

    def read_json(self, value: Json) -> Scores:
        scores = tuple(Score(entry["logprob"], tuple(entry["token_ids"]),
                             tuple(entry["token_logprobs"])) for entry in value["data"])
        return Scores(value["model"], scores, usage_of(value["usage"]))

    def read_message(self, message: Any) -> Scores:
        scores = tuple(Score(one.logprob, tuple(token.token for token in one.tokens),
                             tuple(token.logprob for token in one.tokens))
                       for one in message.scores)
        return Scores(message.model, scores, usage_of(message.usage))


@dataclasses.dataclass(frozen=True)
class Tokenize(Request["tuple[int, ...]"]):
    """Text to token ids; with `commands`, words such as [MASK] are control tokens."""

    path = "/v1/tokenize"
    call = "Tokenize"
    text: str
    commands: bool | None = dataclasses.field(default=None, kw_only=True)
    model: str | None = dataclasses.field(default=None, kw_only=True)

    def body(self) -> dict[str, Any]:
        return fields_of(self)

    def message(self) -> Any:
        return inference_pb2.TokenizeRequest(**self.body())

    def read_json(self, value: Json) -> tuple[int, ...]:
        return tuple(value["tokens"])

    def read_message(self, message: Any) -> tuple[int, ...]:
        return tuple(message.tokens)


@dataclasses.dataclass(frozen=True)
class Detokenize(Request[str]):
    """Token ids to text."""

    path = "/v1/detokenize"
    call = "Detokenize"
    tokens: Sequence[int]
    model: str | None = dataclasses.field(default=None, kw_only=True)

    def body(self) -> dict[str, Any]:
        return {**fields_of(self), "tokens": list(self.tokens)}

    def message(self) -> Any:
        return inference_pb2.DetokenizeRequest(**self.body())

    def read_json(self, value: Json) -> str:
        return str(value["text"])

    def read_message(self, message: Any) -> str:
        return str(message.text)


def _model_of_json(entry: Json) -> Model:
    told = entry.get("pictures")
    pictures = told and PictureModel(told["paints"], told["captions"], told["magnifies"],
                                     tuple(told["sizes"]), tuple(told["styles"]))
    return Model(entry["id"], entry["family"], entry["context_tokens"], entry["parent"], pictures)


def _model_of_message(model: Any) -> Model:
    told = model.pictures
    pictures = PictureModel(told.paints, told.captions, told.magnifies, tuple(told.sizes),
                            tuple(told.styles)) if model.HasField("pictures") else None
    return Model(model.name, model.family, model.context_tokens, model.parent or None, pictures)


@dataclasses.dataclass(frozen=True)
class ListModels(Request["tuple[Model, ...]"]):
    """The models and adapters that are served."""

    path = "/v1/models"
    call = "ListModels"

    def body(self) -> None:
        return None

    def message(self) -> Any:
        return inference_pb2.ListModelsRequest()

    def read_json(self, value: Json) -> tuple[Model, ...]:
        return tuple(map(_model_of_json, value["data"]))

    def read_message(self, message: Any) -> tuple[Model, ...]:
        return tuple(map(_model_of_message, message.models))


@dataclasses.dataclass(frozen=True)
class LoadAdapter(Request[Model]):
    """Loads an adapter from a folder below the server's --adapter-folder; requests may name it
    MODEL:ADAPTER once this answers. Takes a key with the scope admin."""

    path = "/v1/adapters"
    call = "LoadAdapter"
    name: str
    folder: str
    model: str | None = dataclasses.field(default=None, kw_only=True)

    def body(self) -> dict[str, Any]:
        body = fields_of(self)
        body["path"] = body.pop("folder")
        return body

    def message(self) -> Any:
        return inference_pb2.LoadAdapterRequest(**self.body())

    def read_json(self, value: Json) -> Model:
        return _model_of_json(value)

    def read_message(self, message: Any) -> Model:
        return _model_of_message(message)


@dataclasses.dataclass(frozen=True)
class UnloadAdapter(Request[None]):
    """Takes no new requests for an adapter, MODEL:ADAPTER; its memory is free when the last one
    has ended. Takes a key with the scope admin."""

    path = "/v1/adapters/"
    call = "UnloadAdapter"
    verb = "DELETE"
    name: str

    def url(self) -> str:
        return self.path + urllib.parse.quote(self.name, safe=":")

    def body(self) -> None:
        return None

    def message(self) -> Any:
        return inference_pb2.UnloadAdapterRequest(name=self.name)

    def read_json(self, value: Json) -> None:
        return None

    def read_message(self, message: Any) -> None:
        return None


@dataclasses.dataclass(frozen=True)
class GetServerInfo(Request[ServerInfo]):
    """What the server is, and the most that requests may ask for."""

    path = "/v1/server"
    call = "GetServerInfo"

    def body(self) -> None:
        return None

    def message(self) -> Any:
        return inference_pb2.GetServerInfoRequest()

    def read_json(self, value: Json) -> ServerInfo:
        return ServerInfo(value["version"], value["uptime_seconds"], dict(value["limits"]))

    def read_message(self, message: Any) -> ServerInfo:
        return ServerInfo(message.version, message.uptime_seconds, dict(message.limits))
