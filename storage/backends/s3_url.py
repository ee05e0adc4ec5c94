"""What an `s3://BUCKET/PREFIX?OPTION=VALUE` says: a bucket, a prefix that is a tenant, and how to get there.

Credentials are no part of it: they are found as boto3 finds them, and a URL that holds some is refused unprinted.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, parse_qsl, urlsplit

from msgspec import Struct

from formats.errors import UsageError
from storage.backend import is_key

OPTIONS = ("endpoint_url", "path_style", "region", "request_payer", "sse", "sse_kms_key_id")
_HINT = f"s3://BUCKET/PREFIX?OPTION=VALUE; options: {', '.join(OPTIONS)}"
_bucket = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")
_region = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
_secret = re.compile(r"(?i)key_?id\Z|access|secret|token|passw|credential|signature|aws")


class Location(Struct, frozen=True, kw_only=True):
    """A bucket, a prefix in it (empty: all of it), and how to get there. Empty text: boto3 decides."""

    bucket: str
    prefix: str
    endpoint_url: str = ""
    region: str = ""
    path_style: str = ""
    sse: str = ""
    sse_kms_key_id: str = ""
    request_payer: str = ""

    @property
    def where(self) -> str:
        """The endpoint, as an error tells it."""
        return self.endpoint_url or f"S3 in {self.region or 'the default region'}"


def parse_location(url: str) -> Location:
    """Raises: UsageError."""
    parts = urlsplit(url)
    _check_no_credentials(parts)
    prefix = parts.path.strip("/")
    if not _bucket.match(parts.netloc) or ".." in parts.netloc:
        raise UsageError(f"not the name of a bucket: {parts.netloc[:100]!r}", hint=_HINT)
    if (prefix and not is_key(prefix)) or parts.fragment:
        raise UsageError(f"not a prefix of a store: {prefix[:100]!r}", hint="parts of letters, digits, '.', '_', '-'")
    options = _options(parts)
    location = Location(bucket=parts.netloc, prefix=prefix, **options)
    _check(location)
    return location


def _options(parts: SplitResult) -> dict[str, str]:
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError as error:
        if not parts.query:
            return {}
        raise UsageError("the options of the store's URL are not OPTION=VALUE&...", hint=_HINT) from error
    options = dict(pairs)
    for name, _ in pairs:
        if name not in OPTIONS:
            raise UsageError(f"the store's URL has an unknown option: {name[:100]!r}", hint=_HINT)
    if len(options) != len(pairs):
        raise UsageError("the store's URL has an option twice", hint=_HINT)
    for name, value in pairs:
        if not value:
            raise UsageError(f"the option {name} of the store's URL is empty", hint=_HINT)
    return options


def _check(location: Location) -> None:
    if location.endpoint_url:
        endpoint = urlsplit(location.endpoint_url)
        if endpoint.scheme not in {"http", "https"} or not endpoint.hostname or endpoint.query or endpoint.fragment:
            raise UsageError(
                f"not an endpoint: {location.endpoint_url[:200]!r}",
                hint="endpoint_url=https://HOST or http://HOST:PORT",
            )
    if location.region and not _region.match(location.region):
        raise UsageError(f"not a region: {location.region[:100]!r}", hint="as in region=eu-central-1")
    if location.path_style not in {"", "true", "false"}:
        raise UsageError(f"path_style is true or false, not {location.path_style[:100]!r}", hint=_HINT)
    if location.sse not in {"", "AES256", "aws:kms", "aws:kms:dsse"}:
        raise UsageError(f"sse is AES256, aws:kms or aws:kms:dsse, not {location.sse[:100]!r}", hint=_HINT)
    if location.sse_kms_key_id and not location.sse.startswith("aws:kms"):
        raise UsageError("sse_kms_key_id without sse=aws:kms", hint="add sse=aws:kms")
    if location.request_payer not in {"", "requester"}:
        raise UsageError(f"request_payer is requester, not {location.request_payer[:100]!r}", hint=_HINT)


def _check_no_credentials(parts: SplitResult) -> None:
    """Nothing of the URL is repeated: what was typed may be a secret."""
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True) if name not in OPTIONS]
    endpoints = [value for name, value in parse_qsl(parts.query) if name == "endpoint_url"]
    if (
        "@" in parts.netloc
        or any("@" in urlsplit(value).netloc for value in endpoints)
        or any(map(_secret.search, names))
    ):
        raise UsageError(
            "the store's URL holds credentials",
            hint="take them out; the usual AWS variables, files and roles are used",
        )
