"""The stores behind addresses: opened through fsspec, asked with patience, faults put in words.

Credentials and endpoints are those of fsspec's back ends (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`,
`FSSPEC_S3_ANON=true`, ...): nothing of them is in params.yaml.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from imagemill.errors import SourceError, UnknownNameError

# Scheme -> what to install if its back end is missing.
SCHEMES = {
    "s3": "imagemill[s3]",
    "http": "aiohttp",
    "https": "aiohttp",
    "gs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
}

_ATTEMPTS = 3
_PAUSE_SECONDS = 0.3
_CONNECT_SECONDS, _READ_SECONDS = 20, 60

T = TypeVar("T")


class NothingThereError(SourceError):
    """There is no such file."""


def asked(uri: str, ask: Callable[[Any], T]) -> T:
    """Ask the store of an address, again if the connection broke off."""
    store = _store(uri)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return ask(store)
        # Back ends raise whatever their clients raise; all of it is about this address.
        except Exception as error:
            reason, is_passing = _reason(error)
            if is_passing and attempt < _ATTEMPTS:
                time.sleep(_PAUSE_SECONDS * attempt)
                continue
            kind = NothingThereError if reason is _NOTHING else SourceError
            raise kind(f"cannot read {uri}: {reason}") from None
    raise AssertionError


def _store(uri: str) -> Any:
    scheme = uri.partition("://")[0]
    if scheme not in SCHEMES:
        raise UnknownNameError("kind of address", scheme, SCHEMES)
    options: dict[str, Any] = {"use_listings_cache": False}
    try:
        import fsspec

        if scheme.startswith("http"):
            import aiohttp

            limits = aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS
            )
            options["client_kwargs"] = {"timeout": limits}
        return fsspec.filesystem(scheme, **options)
    except ImportError:
        raise SourceError(
            f"{uri} needs a package that is not installed: pip install '{SCHEMES[scheme]}'"
        ) from None


_NOTHING = "there is nothing at this address"
_REASONS = {
    "PermissionError": "access denied; check the credentials and the address",
    "NoCredentialsError": "no credentials were found; set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or FSSPEC_S3_ANON=true for public data",
}
_BROKEN = {
    "ClientConnectorError": "no connection to the server",
    "ClientConnectorDNSError": "no such server is known",
    "ConnectionRefusedError": "no connection to the server",
    "EndpointConnectionError": "no connection to the server",
    "ConnectTimeoutError": "no connection to the server",
    "TimeoutError": "the server does not answer",
    "ServerTimeoutError": "the server does not answer",
    "ReadTimeoutError": "the server does not answer",
    "ServerDisconnectedError": "the server broke off",
    "ClientPayloadError": "the server broke off",
    "ClientOSError": "the server broke off",
    "ConnectionResetError": "the server broke off",
    "ConnectionClosedError": "the server broke off",
    "IncompleteReadError": "the server broke off",
    "ResponseStreamingError": "the server broke off",
}


def _reason(error: BaseException) -> tuple[str, bool]:
    """Why a request failed, in words, and whether asking again may help."""
    chain = list(_chain(error))
    for code in (getattr(found, "status", None) for found in chain):
        if isinstance(code, int) and code >= 400 and code != 404:
            denied = f"access denied ({code}); check the credentials and the address"
            return denied if code in (401, 403) else f"the server answers {code}", code >= 500
    names = [kind.__name__ for found in chain for kind in type(found).__mro__]
    for name in names:
        if name in _REASONS or name in _BROKEN:
            return _REASONS.get(name) or _BROKEN[name], name in _BROKEN
    if "FileNotFoundError" in names:
        return _NOTHING, False
    if "range requests" in str(error):
        return "the server hands out whole files only (no range requests); download it", False
    return (str(error) or type(error).__name__).splitlines()[0], False


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
