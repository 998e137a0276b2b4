"""Requests about pictures. A picture is the bytes of a file: PNG, JPEG or WebP."""

from __future__ import annotations

import base64
import dataclasses
from typing import Any, Literal, Mapping

from qianyi._request import EventReader, Json, Request, Streamed, fields_of
from qianyi.types import Caption, ImageUsage, PaintEvent, PaintProgress, Picture, Pictures
from qianyi.v1 import images_pb2

_STAGES: Mapping[int, Literal["painting", "scoring", "magnifying"]] = {
    1: "painting", 2: "scoring", 3: "magnifying"}


def _b64(file: bytes) -> str:
    return base64.b64encode(file).decode()


def _usage(value: Json) -> ImageUsage:
    read = value["input_tokens_details"]
    return ImageUsage(read["text_tokens"], read["image_tokens"], value["output_tokens"])


def _picture(entry: Json) -> Picture:
    return Picture(base64.b64decode(entry["b64_json"]), entry["seed"], entry.get("score"))


class _PaintReader:

    def __init__(self) -> None:
        self._completed: list[Json] = []

    def read(self, event: Json) -> PaintEvent | None:
        if event["type"].endswith(".completed"):
            self._completed.append(event)
            return None
        return PaintProgress(event["picture"], event["done"], event["total"],
                             base64.b64decode(event["b64_json"]))

    def finish(self) -> PaintEvent | None:
        if not self._completed:
            return None
        first = self._completed[0]
        return Pictures(first["model"], tuple(map(_picture, self._completed)), first["size"],
                        first["output_format"], _usage(first["usage"]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Paint(Streamed[Pictures, PaintEvent]):
    """What is None has the server's default, or the model's."""

    gathers = True

    model: str | None = None
    style: str | None = None
    size: str | None = None
    n: int | None = None
    candidates: int | None = None
    return_scores: bool | None = None
    output_format: str | None = None
    output_compression: int | None = None
    partial_images: int | None = None
    seed: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None

    def body(self) -> dict[str, Any]:
        body = fields_of(self)
        body.pop("partial_images", None)  # of streams alone
        return body

    def stream_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"stream": True}
        if self.partial_images is not None:
            options["partial_images"] = self.partial_images
        return options

    def words(self) -> Any:
        given = fields_of(self)
        return images_pb2.GenerateImageRequest(
            **{field.name: given[field.name]
               for field in images_pb2.GenerateImageRequest.DESCRIPTOR.fields
               if field.name in given})

    def read_json(self, value: Json) -> Pictures:
        return Pictures(value["model"], tuple(map(_picture, value["data"])), value["size"],
                        value["output_format"], _usage(value["usage"]))

    def read_message(self, message: Any) -> Pictures:
        done = message.finished
        images = tuple(Picture(one.image, one.seed, one.score if one.HasField("score") else None)
                       for one in done.images)
        usage = done.usage
        return Pictures(message.model, images, done.size, done.output_format,
                        ImageUsage(usage.text_tokens, usage.image_tokens, usage.output_tokens))

    def reader(self) -> EventReader[PaintEvent]:
        return _PaintReader()

    def read_chunk(self, message: Any) -> PaintEvent | None:
        if message.HasField("finished"):
            return self.read_message(message)
        progress = message.progress
        if progress.stage not in _STAGES:
            return None
        return PaintProgress(progress.picture, progress.done, progress.total,
                             progress.partial_image or None, _STAGES[progress.stage])


@dataclasses.dataclass(frozen=True)
class GenerateImage(_Paint):
    """Pictures from words."""

    path = "/v1/images/generations"
    call = stream_call = "GenerateImage"
    prompt: str

    def message(self) -> Any:
        return self.words()


@dataclasses.dataclass(frozen=True)
class EditImage(_Paint):
    """Paints anew what is transparent in `mask`, or else in `image`."""

    path = "/v1/images/edits"
    call = stream_call = "EditImage"
    prompt: str
    image: bytes
    mask: bytes | None = None

    def body(self) -> dict[str, Any]:
        body = {**super().body(), "image": _b64(self.image)}
        if self.mask is not None:
            body["mask"] = _b64(self.mask)
        return body

    def message(self) -> Any:
        return images_pb2.EditImageRequest(picture=self.words(), image=self.image,
                                            mask=self.mask or b"")


@dataclasses.dataclass(frozen=True)
class CaptionImage(Request[Caption]):
    """Words for a picture."""

    path = "/v1/images/captions"
    call = "CaptionImage"
    image: bytes
    model: str | None = dataclasses.field(default=None, kw_only=True)
    seed: int | None = dataclasses.field(default=None, kw_only=True)
    temperature: float | None = dataclasses.field(default=None, kw_only=True)

    def body(self) -> dict[str, Any]:
        return {**fields_of(self), "image": _b64(self.image)}

    def message(self) -> Any:
        return images_pb2.CaptionImageRequest(**fields_of(self))

    def read_json(self, value: Json) -> Caption:
        entry = value["data"][0]
        return Caption(value["model"], entry["text"], entry["log_probability"])

    def read_message(self, message: Any) -> Caption:
        return Caption(message.model, message.text, message.log_probability)
