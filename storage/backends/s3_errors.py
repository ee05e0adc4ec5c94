"""What S3 and the way to it answer, said as one error of ours: what happened, and what to do next.

`failure` decides two things for the protocol: whether the effect may have happened (OutcomeUnknownError) or surely
did not, and whether another try may help (UnavailableError).
"""

from __future__ import annotations

import re
from typing import Any

from formats.errors import (
    AccessDeniedError,
    EoctlError,
    NoSpaceError,
    OutcomeUnknownError,
    StoreNotFoundError,
    UnavailableError,
    UnsafeBackendError,
    UsageError,
)
from storage.backend import BusyError, KeyAbsentError, VersionMismatchError
from storage.backends.s3_url import Location

_MAX_DETAIL = 300
_NO_BUCKET = {"NoSuchBucket"}
_NO_KEY = {"NoSuchKey", "NotFound"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_WRONG_KEYS = {
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_WRONG_REGION = {
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
    "Redirect",
    "TemporaryRedirect",
}
_BUSY = {
    "BandwidthLimitExceeded",
    "RequestLimitExceeded",
    "RequestThrottled",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "TooManyRequestsException",
}
_FULL = {"InsufficientStorage", "QuotaExceeded", "StorageFull", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull"}
_DAMAGED = {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "IncompleteBody"}
_UNSUPPORTED = {"MethodNotAllowed", "NotImplemented", "UnsupportedOperation"}
_LATER = {"OperationAborted", "RequestTimeout"}
# By name, as botocore is imported only where S3 is used.
_NEVER_SENT = {"ConnectTimeoutError", "EndpointConnectionError", "ProxyConnectionError", "SSLError"}
_NO_CREDENTIALS = {
    "ConfigNotFound",
    "ConfigParseError",
    "CredentialRetrievalError",
    "InfiniteLoopConfigError",
    "InvalidConfigError",
    "LoginRefreshRequired",
    "MetadataRetrievalError",
    "NoAuthTokenError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "RefreshWithMFAUnsupportedError",
    "SSOTokenLoadError",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
    "UnknownCredentialError",
}
_OPEN = "check the network and the server; look what is there before you run the command again"
_markup = re.compile(r"<[^>]*>|\s+")


class RangeAbsentError(EoctlError):
    """The range asked for begins at or after the end of the value."""


class UploadAbsentError(EoctlError):
    """The multipart upload is not known: finished, aborted, or never begun."""


class UnsupportedRequestError(UnsafeBackendError):
    """The server does not know the request at all."""


def failure(error: Exception, operation: str, what: str, location: Location, *, sent_once: bool) -> EoctlError:
    """The error to raise. `sent_once`: a write that nobody has repeated, whose effect a lost reply leaves open."""
    name = type(error).__name__
    if hasattr(error, "response") and isinstance(error.response, dict):
        return _answered(error.response, operation, what, location, sent_once=sent_once)
    if name in _NO_CREDENTIALS:
        return AccessDeniedError(
            f"no AWS credentials can be had: {_clean(error)}",
            hint="aws configure, aws sso login, AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    if name in _NEVER_SENT:
        return UnavailableError(
            f"no connection to {location.where}: {_clean(error)}",
            hint="check endpoint_url, the network, proxy and certificates; nothing was done",
        )
    if name == "ResponseParserError":
        return _no_s3(location, _clean(error))
    if name in {"ParamValidationError", "InvalidEndpointConfigurationError", "UnsupportedS3ConfigurationError"}:
        return UsageError(f"not a request that S3 understands: {_clean(error)}", hint="check the store's URL")
    detail = f"{location.where} did not answer in full ({operation} {what}): {_clean(error)}"
    if sent_once:
        return OutcomeUnknownError(detail, hint=_OPEN)
    return UnavailableError(detail, hint="check the network and the server, then run the command again")


def fact(reply: dict[str, Any], name: str, location: Location) -> Any:  # noqa: ANN401  (whatever S3 tells under it)
    """What every answer of S3 tells. Raises: UnsafeBackendError where it is missing."""
    if name not in reply:
        raise _no_s3(location, f"an answer without {name}")
    return reply[name]


def _answered(
    response: dict[str, Any], operation: str, what: str, location: Location, *, sent_once: bool
) -> EoctlError:
    fault = response.get("Error", {})
    code = str(fault.get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = f"{code or status}: {_clean(fault.get('Message', ''))}"
    if (found := _of_name(code, status, operation, what, location)) is not None:
        return found
    if (found := _of_rights(code, status, said, operation, what, response, location)) is not None:
        return found
    if code in _FULL or status == 507:
        return NoSpaceError(f"the store is full, or a quota is ({operation} {what}): {said}")
    if code in _UNSUPPORTED or status in {405, 501}:
        return UnsupportedRequestError(f"{location.where} does not know {operation}: {said}", hint="eoctl doctor")
    if code in _DAMAGED:
        return UnavailableError(
            f"the bytes were damaged on their way ({operation} {what}): {said}", hint="run it again"
        )
    if code in _BUSY or status == 429 or (status == 503 and not sent_once):
        return BusyError(f"{location.where} is busy ({operation} {what}): {said}", hint="run it again later")
    if status == 409 or (sent_once and status >= 500) or (sent_once and code in _LATER):
        return OutcomeUnknownError(f"{location.where} left open what it did ({operation} {what}): {said}", hint=_OPEN)
    if 200 <= status < 300:
        return _no_s3(location, said)
    return UnavailableError(f"{location.where} refused {operation} {what}: {said}", hint="eoctl doctor")


def _of_name(code: str, status: int, operation: str, what: str, location: Location) -> EoctlError | None:
    """The errors that the code above the back end reads as answers, and those about the bucket."""
    if code in _NO_BUCKET or (operation == "HeadBucket" and status == 404):
        return StoreNotFoundError(
            f"there is no bucket {location.bucket} at {location.where}",
            hint="check the bucket's name and endpoint_url, or make the bucket first",
        )
    if code == "InvalidBucketName":
        return UsageError(f"not the name of a bucket: {location.bucket}", hint="s3://BUCKET/PREFIX")
    if code == "NoSuchUpload":
        return UploadAbsentError(f"there is no upload of {what} any more")
    if code in _NO_KEY or (status == 404 and operation == "HeadObject"):
        return KeyAbsentError(f"there is no {what}")
    if code == "PreconditionFailed" or status == 412:
        return VersionMismatchError(f"{what} has changed")
    if code == "InvalidRange" or status == 416:
        return RangeAbsentError(f"{what} ends before that range")
    if status == 404 and code in {"", "404"}:  # no error of S3: those have names
        return _no_s3(location, f"{operation}: {code}")
    return None


def _of_rights(
    code: str, status: int, said: str, operation: str, what: str, response: dict[str, Any], location: Location
) -> EoctlError | None:
    fault = response.get("Error", {})
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    moved = code in _WRONG_REGION or status in {301, 302, 303, 307, 308}
    if moved or (status == 400 and headers.get("x-amz-bucket-region", location.region) != location.region):
        return _elsewhere(fault, headers, location)
    if code in _EXPIRED:
        return AccessDeniedError(
            f"the AWS credentials have expired: {said}", hint="renew them (aws sso login, or a new session token)"
        )
    if code in _WRONG_KEYS:
        return AccessDeniedError(
            f"{location.where} does not accept the AWS credentials: {said}",
            hint="check AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and whose keys they are",
        )
    if code == "RequestTimeTooSkewed":
        ours, theirs = fault.get("RequestTime", "unknown"), fault.get("ServerTime", "unknown")
        return AccessDeniedError(
            f"this host's clock and the store's are too far apart: {_clean(ours)} here, {_clean(theirs)} there",
            hint="set this host's clock (timedatectl status); nothing was done",
        )
    if code == "InvalidObjectState":
        return UnavailableError(
            f"{what} was moved to an archive: {said}",
            hint="restore the object from its archive class, and take blobs out of that lifecycle rule (eoctl doctor)",
        )
    if code.startswith("KMS."):
        return AccessDeniedError(
            f"the KMS key cannot be used ({operation} {what}): {said}", hint="check sse_kms_key_id"
        )
    if status in {401, 403}:
        return AccessDeniedError(
            f"not allowed: {operation} {what} in bucket {location.bucket}: {said}",
            hint=f"the credentials need {_permission(operation)} there, and s3:ListBucket on the bucket",
        )
    return None


def _elsewhere(fault: dict[str, Any], headers: dict[str, str], location: Location) -> EoctlError:
    """The bucket is in another region, or the endpoint sends us away; nobody follows it to an unknown host."""
    region = str(fault.get("Region") or headers.get("x-amz-bucket-region") or "")
    if region and region != location.region:
        return UsageError(
            f"bucket {location.bucket} is in region {_clean(region)}, not in {location.region or 'the default region'}",
            hint=f"add region={_clean(region)} to the store's URL",
        )
    target = str(fault.get("Endpoint") or headers.get("location") or "another host")
    return UnsafeBackendError(
        f"{location.where} redirects to {_clean(target)}, which is not followed",
        hint="if that is where the bucket lives, name it as endpoint_url",
    )


def _no_s3(location: Location, said: str) -> UnsafeBackendError:
    return UnsafeBackendError(
        f"{location.where} does not answer as S3 does: {said}", hint="check endpoint_url; is it a web page or a proxy?"
    )


def _permission(operation: str) -> str:
    return {
        "AbortMultipartUpload": "s3:AbortMultipartUpload",
        "CopyObject": "s3:GetObject and s3:PutObject",
        "DeleteObjects": "s3:DeleteObject",
        "HeadObject": "s3:GetObject",
        "ListMultipartUploads": "s3:ListBucketMultipartUploads",
        "ListObjectsV2": "s3:ListBucket",
        "UploadPartCopy": "s3:GetObject and s3:PutObject",
    }.get(operation, "s3:GetObject" if operation == "GetObject" else "s3:PutObject")


def _clean(said: object) -> str:
    """One line of bounded length: what a server says may be a page."""
    return _markup.sub(" ", str(said)).strip()[:_MAX_DETAIL]
