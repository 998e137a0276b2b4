"""What goes wrong, by kind. Every error is a QianyiError."""

from __future__ import annotations

from typing import Any, Mapping


class QianyiError(Exception):
    """`code` says what is wrong to programs, `field` which field of the request is at fault,
    `retry_after` after how many seconds trying again makes sense."""

    retriable = False

    def __init__(self, message: str, *, code: str | None = None, field: str | None = None,
                 request_id: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.field = field
        self.request_id = request_id
        self.retry_after = retry_after


class InvalidRequestError(QianyiError):
    """A field is missing, unknown or out of range, or the prompt does not fit."""


class AuthenticationError(QianyiError):
    """The key is missing or unknown."""


class PermissionDeniedError(QianyiError):
    """The key may not do this."""


class NotFoundError(QianyiError):
    """No such model, adapter or route."""


class ConflictError(QianyiError):
    """It is there already."""


class TooLargeError(QianyiError):
    """The request is larger than the server takes."""


class QuotaError(QianyiError):
    """The key's own quota is used up, for now."""

    retriable = True


class OverloadedError(QianyiError):
    """The server has no room, for now, or is stopping."""

    retriable = True


class UnreachableError(QianyiError):
    """No server answers there, or the connection broke."""

    retriable = True


class TimedOutError(QianyiError):
    """It took longer than the timeout, or than the server's own."""


class UnsupportedError(QianyiError):
    """This server does not do that."""


class ServerError(QianyiError):
    """A fault of the server."""


_BY_STATUS: Mapping[int, type[QianyiError]] = {
    400: InvalidRequestError, 401: AuthenticationError, 403: PermissionDeniedError,
    404: NotFoundError, 405: InvalidRequestError, 409: ConflictError, 413: TooLargeError,
    415: InvalidRequestError, 429: QuotaError, 431: TooLargeError, 501: UnsupportedError,
    503: OverloadedError, 504: TimedOutError}

_BY_TYPE: Mapping[str, int] = {
    "invalid_request_error": 400, "authentication_error": 401, "permission_error": 403,
    "rate_limit_error": 429, "not_supported_error": 501, "service_unavailable_error": 503,
    "timeout_error": 504}

_BY_GRPC_CODE: Mapping[str, type[QianyiError]] = {
    "INVALID_ARGUMENT": InvalidRequestError, "OUT_OF_RANGE": TooLargeError,
    "UNAUTHENTICATED": AuthenticationError, "PERMISSION_DENIED": PermissionDeniedError,
    "NOT_FOUND": NotFoundError, "ALREADY_EXISTS": ConflictError,
    "RESOURCE_EXHAUSTED": QuotaError, "UNAVAILABLE": OverloadedError,
    "DEADLINE_EXCEEDED": TimedOutError, "UNIMPLEMENTED": UnsupportedError}


def from_rest(status: int | None, body: Any, headers: Mapping[str, str]) -> QianyiError:
    """Of an answer, or with `status` None of an event in a stream."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        error = {"message": str(error or body or f"status {status}")}
    if status is None:
        status = _BY_TYPE.get(str(error.get("type")), 500)
    after = headers.get("retry-after", "")
    return _BY_STATUS.get(status, ServerError)(
        str(error.get("message")), code=error.get("code") or error.get("type"),
        field=error.get("param"), request_id=headers.get("x-request-id"),
        retry_after=float(after) if after.isdigit() else None)


def from_grpc(code: str, message: str, metadata: Mapping[str, str | bytes]) -> QianyiError:
    """Of a status and its trailing metadata, whose details the server writes."""
    request_id = metadata.get("x-request-id")
    details = metadata.get("grpc-status-details-bin")
    kind = _BY_GRPC_CODE.get(code, ServerError)
    if not isinstance(details, bytes):  # what the library says by itself
        if code == "UNAVAILABLE":
            kind = UnreachableError
        elif code == "RESOURCE_EXHAUSTED":
            kind = TooLargeError
        details = b""
    told = _details(details)
    return kind(message, code=told.get("code"), field=told.get("field"),
                request_id=str(request_id) if request_id else None,
                retry_after=told.get("retry_after"))


def _details(status: bytes) -> dict[str, Any]:
    """ErrorInfo, RetryInfo and BadRequest of a google.rpc.Status. Their Python classes are a
    package of their own, which distributions lack."""
    told: dict[str, Any] = {}
    for detail in _fields(status).get(3, []):
        parts = _fields(detail)
        kind, value = parts[1][0].rpartition(b".")[2], _fields(parts.get(2, [b""])[0])
        if kind == b"ErrorInfo":
            told["code"] = value[1][0].decode()
        elif kind == b"RetryInfo":
            told["retry_after"] = float(_fields(value[1][0]).get(1, [0])[0])
        elif kind == b"BadRequest":
            told["field"] = _fields(value[1][0])[1][0].decode()
    return told


def _fields(data: bytes) -> dict[int, list[Any]]:
    """A message's fields by number: bytes, or whole numbers."""
    found: dict[int, list[Any]] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        number, kind = divmod(varint(), 8)
        value: Any = varint()
        if kind == 2:
            value, at = data[at:at + value], at + value
        elif kind != 0:
            break  # nothing that the server writes
        found.setdefault(number, []).append(value)
    return found
