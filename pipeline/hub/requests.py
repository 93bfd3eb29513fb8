"""Requests to the Hugging Face Hub: time limits, repeated attempts and the causes of failures."""

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from pipeline.console import print_line
from pipeline.errors import in_one_line

Result = TypeVar("Result")

LONGEST_WAIT = 600.0  # seconds; the Hub's rate limits are per five minutes
BUSY = (408, 429, 500, 502, 503, 504)  # HTTP status codes of temporary failures
MAX_WARNING = 300  # characters
REQUEST_NUMBERS = re.compile(r" \((Request ID|Amzn Trace ID|Amz CF ID): [^)]*\)")


def is_offline() -> bool:
    from huggingface_hub import constants

    return constants.is_offline_mode()


def bound_requests() -> None:
    """Limits the time of all further requests to the Hub in this process.

    The library sets no limit for some of them, like the list of a repository's files.
    """
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    if _http._GLOBAL_CLIENT_FACTORY is not _bounded_client:
        set_client_factory(_bounded_client)


def _bounded_client() -> Any:
    from huggingface_hub.utils._http import default_client_factory

    client = default_client_factory()
    client.event_hooks["request"].append(_bound)
    return client


def _bound(request: Any) -> None:
    from huggingface_hub import constants

    most = max(constants.HF_HUB_DOWNLOAD_TIMEOUT, constants.HF_HUB_ETAG_TIMEOUT)
    limits = request.extensions.get("timeout") or {}
    kinds = ("connect", "read", "write", "pool")
    request.extensions["timeout"] = {kind: min(limits.get(kind) or most, most) for kind in kinds}


class WarningPrinter(logging.Handler):
    """Prints each warning of the library as one line."""

    def emit(self, record: logging.LogRecord) -> None:
        line = " ".join(record.getMessage().split())[:MAX_WARNING]
        if not line.startswith("No files matched"):  # expected when only the list is fetched
            print_line(f"the Hub: {line}")


def with_retries(
    call: Callable[[], Result], waits: Iterable[float], longest_wait: float = LONGEST_WAIT
) -> Result:
    """Returns the result of a call; repeats it while the Hub is busy or unreachable.

    waits: seconds before each further attempt. longest_wait: fails at once if the Hub's
    Retry-After is longer than these seconds.
    """
    for wait in waits:
        try:
            return call()
        except Exception as error:
            reason, asked = temporary_problem(error), _retry_after(error)
            if not reason or asked > longest_wait:
                raise
            wait = max(wait, asked)
            print_line(f"the Hub: {reason}; another attempt in {wait:g} s")
            time.sleep(wait)
    return call()


def temporary_problem(error: BaseException) -> str:
    """Returns a few words about a temporary failure; "" for other errors."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx

    for cause in causes(error):
        if isinstance(cause, HfHubHTTPError):
            is_busy = cause.response.status_code in BUSY
            return f"it answers {http_status(cause)}" if is_busy else ""
        if isinstance(cause, httpx.TimeoutException):
            return "it does not answer in time"
        if isinstance(cause, httpx.ConnectError):
            return f"it cannot be reached ({first_line(cause)})"
        if isinstance(cause, httpx.TransportError) or "Consistency check failed" in str(cause):
            return f"the connection broke off ({first_line(cause)})"
    return ""


def _retry_after(error: BaseException) -> float:
    """Returns the seconds of the response's Retry-After header, 0.0 without one."""
    for cause in causes(error):
        asked = getattr(getattr(cause, "response", None), "headers", {}).get("Retry-After", "")
        if asked.isdigit():
            return float(asked)
    return 0.0


def http_status(error: Any) -> str:
    response = error.response
    return f"{response.status_code} {response.reason_phrase}".strip()


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and its chain of causes, the root cause last."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def first_line(text: Any) -> str:
    """Returns the first line of an error or a message, without the Hub's request numbers."""
    lines = str(text).strip().splitlines()
    return in_one_line(REQUEST_NUMBERS.sub("", lines[0] if lines else type(text).__name__))
