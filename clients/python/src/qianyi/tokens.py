"""Requests for vectors, scores and tokens, and about the server itself."""

from __future__ import annotations

import dataclasses
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
        def pictures(entry: Json) -> PictureModel | None:
            told = entry.get("pictures")
            return told and PictureModel(told["paints"], told["captions"], told["magnifies"],
                                         tuple(told["sizes"]), tuple(told["styles"]))
        return tuple(Model(entry["id"], entry["family"], entry["context_tokens"], entry["parent"],
                           pictures(entry)) for entry in value["data"])

    def read_message(self, message: Any) -> tuple[Model, ...]:
        def pictures(model: Any) -> PictureModel | None:
            told = model.pictures
            return PictureModel(told.paints, told.captions, told.magnifies, tuple(told.sizes),
                                tuple(told.styles)) if model.HasField("pictures") else None
        return tuple(Model(model.name, model.family, model.context_tokens, model.parent or None,
                           pictures(model)) for model in message.models)


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
