"""Client of a Qianyi server.

    with qianyi.Client("http://127.0.0.1:8080") as client:
        print(client.poem("春江花月夜", form="七绝", seed=7).text)
"""

from qianyi._settings import Retries
from qianyi.client import AsyncClient, AsyncStream, Client, Stream
from qianyi.errors import (AuthenticationError, ConflictError, InvalidRequestError, NotFoundError,
                           OverloadedError, PermissionDeniedError, QianyiError, QuotaError,
                           ServerError, TimedOutError, TooLargeError, UnreachableError,
                           UnsupportedError)
from qianyi.pictures import CaptionImage, EditImage, GenerateImage
from qianyi.texts import Chat, Completion, Couplet, Poem, Question, Summary
from qianyi.tokens import (Detokenize, Embed, GetServerInfo, ListModels, LoadAdapter, ScoreTexts,
                           Tokenize, UnloadAdapter)
from qianyi.types import (Answer, Caption, Choice, Embeddings, FinishReason, ImageUsage, Message, Model,
                          PaintEvent, PaintProgress, Picture, PictureModel, Pictures, Piece, Score,
                          Scores, ServerInfo, TokenLogprob, Tool, ToolCall, Usage)

__all__ = [
    "Answer", "AsyncClient", "AsyncStream", "AuthenticationError", "Caption", "CaptionImage",
    "Chat", "Choice", "Client", "Completion", "ConflictError", "Couplet", "Detokenize",
    "EditImage", "Embed", "Embeddings", "FinishReason", "GenerateImage", "GetServerInfo",
    "ImageUsage", "InvalidRequestError", "ListModels", "LoadAdapter", "Message", "Model",
    "NotFoundError", "OverloadedError", "PaintEvent", "PaintProgress", "PermissionDeniedError", "Picture",
    "PictureModel", "Pictures", "Piece", "Poem", "QianyiError", "Question", "QuotaError",
    "Retries", "Score", "ScoreTexts", "Scores", "ServerError", "ServerInfo", "Stream",
    "Summary", "TimedOutError", "TokenLogprob", "Tokenize", "TooLargeError", "Tool", "ToolCall",
    "UnloadAdapter", "UnreachableError", "UnsupportedError", "Usage"]
