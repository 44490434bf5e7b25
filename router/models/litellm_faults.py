"""What litellm raises, as faults: by class where the class decides, else by HTTP status, never by text."""

from __future__ import annotations

import math
from collections.abc import Iterator

from router.core.faults import Fault

# litellm's exception classes. A fault means the class decides; `None` means the HTTP status does, because litellm
# uses the class for several causes. A class that is not listed is what its parent is; a test fails when it has none.
EXCEPTIONS: dict[str, Fault | None] = {
    "APIConnectionError": Fault.CONNECTION,
    "APIError": None,
    "APIResponseValidationError": Fault.MALFORMED,
    "AuthenticationError": Fault.AUTH,
    "BadGatewayError": None,
    "BadRequestError": None,
    "BlockedPiiEntityError": Fault.CONTENT_FILTER,
    "BudgetExceededError": Fault.PAYMENT,
    "ContentPolicyViolationError": Fault.CONTENT_FILTER,
    "ContextWindowExceededError": Fault.CONTEXT_TOO_LONG,
    "EndpointNotSupportedByModelError": Fault.UNSUPPORTED,
    "GuardrailRaisedException": Fault.CONTENT_FILTER,
    "ImageFetchError": Fault.BAD_REQUEST,
    "InternalServerError": None,
    "InvalidRequestError": Fault.BAD_REQUEST,
    "JSONSchemaValidationError": Fault.MALFORMED,
    "LiteLLMUnknownProvider": Fault.NOT_FOUND,
    "MalformedRequestFieldError": Fault.BAD_REQUEST,
    "MidStreamFallbackError": Fault.CONNECTION,
    "MockException": None,
    "ModelNotMappedError": Fault.NOT_FOUND,
    "ModifyResponseException": Fault.CONTENT_FILTER,
    "NotFoundError": Fault.NOT_FOUND,
    "OpenAIError": None,
    "PaymentRequiredError": Fault.PAYMENT,
    "PermissionDeniedError": Fault.FORBIDDEN,
    "RateLimitError": Fault.RATE_LIMITED,
    "RejectedRequestError": Fault.CONTENT_FILTER,
    "SensitiveDataRouteException": Fault.CONTENT_FILTER,
    "ServiceUnavailableError": None,
    "Timeout": Fault.TIMEOUT,
    "UnprocessableEntityError": Fault.BAD_REQUEST,
    "UnsupportedEndpointError": Fault.UNSUPPORTED,
    "UnsupportedParamsError": Fault.UNSUPPORTED,
    "VectorStoreSearchError": Fault.BAD_REQUEST,
}

STATUSES: dict[int, Fault] = {
    400: Fault.BAD_REQUEST,
    401: Fault.AUTH,
    402: Fault.PAYMENT,
    403: Fault.FORBIDDEN,
    404: Fault.NOT_FOUND,
    408: Fault.TIMEOUT,
    409: Fault.SERVER_ERROR,
    410: Fault.NOT_FOUND,
    413: Fault.CONTEXT_TOO_LONG,
    422: Fault.BAD_REQUEST,
    425: Fault.SERVER_ERROR,
    429: Fault.RATE_LIMITED,
    504: Fault.TIMEOUT,
}


def classify(error: Exception, status: int | None) -> Fault:
    """The fault of an exception: the nearest listed class decides, else the status, else it is the server's."""
    for kind in type(error).__mro__:
        if kind.__name__ in EXCEPTIONS:
            fault = EXCEPTIONS[kind.__name__]
            if fault is not None:
                return fault
            break
    if status is None or status >= 500:
        return STATUSES.get(status or 500, Fault.SERVER_ERROR)
    return STATUSES.get(status, Fault.BAD_REQUEST if status >= 400 else Fault.MALFORMED)


def lacks_credentials(error: Exception) -> bool:
    """Whether the OpenAI SDK refused to start: it raises its bare base class for that and for nothing else."""
    return any(
        (type(link).__module__.partition(".")[0], type(link).__name__) == ("openai", "OpenAIError")
        for link in _chain(error)
    )


def was_silent(error: Exception) -> bool:
    """Whether a stream stopped because nothing came for too long."""
    return any(type(link).__name__ in ("APITimeoutError", "ReadTimeout", "Timeout") for link in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it came from; litellm keeps that in an attribute of its own, too."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = getattr(link, "original_exception", None) or link.__cause__ or link.__context__


def nothing_came(error: Exception) -> bool:
    """Whether no response arrived: litellm then has no headers of one."""
    return getattr(error, "litellm_response_headers", None) is None


# Raised when a response had begun and its body was broken off or was no HTTP.
_BEGUN = frozenset({"h11.RemoteProtocolError", "aiohttp.ClientPayloadError"})
# Raised when no connection came about, so that nothing was sent.
_NOT_CONNECTED = frozenset(
    {"httpcore.ConnectError", "aiohttp.ClientConnectorError", "builtins.ConnectionRefusedError", "socket.gaierror"}
)
_TRANSPORTS = frozenset({"httpx", "httpcore", "h11", "h2", "aiohttp", "socket", "ssl"})


def arrived(error: Exception) -> bool | None:
    """Whether a request whose connection broke surely came to the provider, or surely did not."""
    kinds = [kind for link in _chain(error) for kind in type(link).__mro__]
    names = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in kinds}
    if names & _NOT_CONNECTED:
        return False
    # Without an error of the transport below, something came and litellm could not read it.
    broke = OSError in kinds or any(name.partition(".")[0] in _TRANSPORTS for name in names)
    return True if names & _BEGUN or not broke else None


def retry_after_s(error: Exception) -> float | None:
    """How long the provider asked to wait, where it did."""
    headers = getattr(error, "litellm_response_headers", None) or {}
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:  # Absent, or a date, which providers of models do not send.
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None
