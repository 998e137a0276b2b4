"""What a server answers."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Mapping, Union

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclasses.dataclass(frozen=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = 0  # of the prompt's: computed for earlier requests


@dataclasses.dataclass(frozen=True)
class ToolCall:
    """A call that a model makes; `arguments` are a JSON object as text."""

    id: str
    name: str
    arguments: str


@dataclasses.dataclass(frozen=True)
class Tool:
    """A function that a model may call; `parameters` are a JSON schema."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Message:
    """A part of a conversation: of "system", "user", "assistant" or "tool"."""

    role: str
    content: str
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None  # of a tool: which call it answers


@dataclasses.dataclass(frozen=True)
class TokenLogprob:
    """A token of an answer, and the natural logarithm of its probability. `text` is what stands
    for the token: U+FFFD for parts of characters."""

    text: str
    logprob: float
    top: tuple[TokenLogprob, ...] = ()  # the likeliest at its place, best first


@dataclasses.dataclass(frozen=True)
class Choice:
    """One answer of a model."""

    text: str  # of the first blank, or the only one
    blanks: tuple[str, ...]
    finish_reason: FinishReason
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()  # where top_logprobs were asked for


@dataclasses.dataclass(frozen=True)
class Answer:
    """All that a model wrote; the same seed gives the same again."""

    id: str
    model: str
    choices: tuple[Choice, ...]
    usage: Usage
    seed: int
    lines: tuple[str, ...] = ()  # clauses of a poem or couplet, without punctuation

    @property
    def text(self) -> str:
        return self.choices[0].text


@dataclasses.dataclass(frozen=True)
class Piece:
    """What comes next of an answer in a stream; the last of a choice has a finish_reason."""

    text: str = ""
    index: int = 0  # of the choice
    blank: int = 0
    reasoning: str = ""
    tool_call: ToolCall | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None  # with the last piece of all
    logprobs: tuple[TokenLogprob, ...] = ()  # of the tokens that came since the last piece


@dataclasses.dataclass(frozen=True)
class ImageUsage:
    text_tokens: int
    image_tokens: int
    output_tokens: int


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture as a file; `seed` paints it alone."""

    image: bytes
    seed: int
    score: float | None = None  # log-probability of the text given the picture


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What was painted, the best first where there are scores."""

    model: str
    images: tuple[Picture, ...]
    size: str
    output_format: str
    usage: ImageUsage


@dataclasses.dataclass(frozen=True)
class PaintProgress:
    """How far a picture is. Over REST only those with an image come."""

    picture: int
    done: int
    total: int
    image: bytes | None = None  # what there is of it, as a file
    stage: Literal["painting", "scoring", "magnifying"] = "painting"


PaintEvent = Union[PaintProgress, Pictures]


@dataclasses.dataclass(frozen=True)
class Caption:
    model: str
    text: str
    log_probability: float


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """A vector of length 1 for each input."""

    model: str
    vectors: tuple[tuple[float, ...], ...]
    usage: Usage


@dataclasses.dataclass(frozen=True)
class Score:
    """How likely a continuation is: in all, and token by token."""

    logprob: float
    tokens: tuple[int, ...]
    token_logprobs: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Scores:
    model: str
    scores: tuple[Score, ...]
    usage: Usage


@dataclasses.dataclass(frozen=True)
class PictureModel:
    """What a model does with pictures."""

    paints: bool
    captions: bool
    magnifies: bool
    sizes: tuple[str, ...]
    styles: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Model:
    """A model, or an adapter of its `parent`."""

    name: str
    family: str
    context_tokens: int
    parent: str | None = None
    pictures: PictureModel | None = None


@dataclasses.dataclass(frozen=True)
class ServerInfo:
    version: str
    uptime_seconds: float
    limits: Mapping[str, int]
