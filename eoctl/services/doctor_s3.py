"""What could harm a store on S3: credentials, region, clock, conditions, and what the bucket does on its own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from eoctl.services.doctor import Finding, State, leftovers, looked, of_store
from formats.errors import AccessDeniedError, EoctlError, UnavailableError
from storage.backend import Place
from storage.backends.s3_client import Limits, Reply, S3Client
from storage.backends.s3_errors import UnsupportedRequestError
from storage.backends.s3_url import parse_location
from storage.head import Ambient

SKEW_SECONDS = 60
REFUSED_SECONDS = 15 * 60  # S3 refuses requests of a clock that is farther off
_ARCHIVES = {"DEEP_ARCHIVE", "GLACIER"}  # what is there cannot be read before somebody has asked for it
_NO_RULES = "NoSuchLifecycleConfiguration"


def examine_s3(place: Place, ambient: Ambient) -> Iterator[Finding]:
    """From what everything else needs to what only costs money. Without a way to the bucket the rest is left out."""
    s3 = S3Client(parse_location(place.url), Limits())
    credentials = looked("credentials", lambda: _credentials(s3))
    yield credentials
    if credentials.state is not State.OK:
        return
    try:
        reply = s3.ask("HeadBucket", s3.location.bucket)
    except EoctlError as error:
        yield Finding(check="bucket", state=State.BAD, found=error.message, fix=error.hint or "")
        return
    yield _bucket(s3, reply)
    yield looked("clock", lambda: _clock(reply, ambient))
    found, _ = of_store(place, ambient)
    yield found
    yield looked("conditional writes", lambda: _conditions(place))
    yield looked("checksums", lambda: _checksums(s3, ambient))
    rules = _rules(s3)
    yield looked("lifecycle", lambda: _lifecycle(s3, rules))
    yield looked("versioning", lambda: _versioning(s3, rules))
    fix = (
        "eoctl gc aborts those of eras that are over; a rule AbortIncompleteMultipartUpload after 7 days takes the rest"
    )
    yield looked("leftovers", lambda: leftovers(place, "uploads that never finished", fix))


def _credentials(s3: S3Client) -> Finding:
    whose = s3.whose()
    if whose:
        return Finding(check="credentials", state=State.OK, found=whose)
    fix = "aws configure, aws sso login, AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    return Finding(check="credentials", state=State.BAD, found="no AWS credentials are found", fix=fix)


def _bucket(s3: S3Client, reply: Reply) -> Finding:
    location = s3.location
    region = reply.get("BucketRegion") or location.region
    where = f"{location.bucket} at {location.where}" + (f", region {region}" if region else "")
    if location.region and region != location.region:
        fix = f"say region={region} in the store's URL"
        return Finding(check="bucket", state=State.WARNING, found=where, fix=fix)
    return Finding(check="bucket", state=State.OK, found=where)


def _clock(reply: Reply, ambient: Ambient) -> Finding:
    told = reply["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    try:
        theirs = parsedate_to_datetime(told)
    except ValueError:
        return Finding(check="clock", state=State.UNKNOWN, found="the server tells no time")
    apart = abs((datetime.fromisoformat(ambient.now()) - theirs).total_seconds())
    words = f"{apart:.0f} s from the server's"
    if apart < SKEW_SECONDS:
        return Finding(check="clock", state=State.OK, found=words)
    state = State.WARNING if apart < REFUSED_SECONDS else State.BAD
    fix = (
        "set this host's clock (timedatectl set-ntp true): S3 refuses what is 15 minutes off; no checkpoint is at risk"
    )
    return Finding(check="clock", state=state, found=words, fix=fix)


def _conditions(place: Place) -> Finding:
    place.check(False)  # noqa: FBT003  (of Place)
    return Finding(check="conditional writes", state=State.OK, found="tried, and kept: If-None-Match, If-Match")


def _checksums(s3: S3Client, ambient: Ambient) -> Finding:
    """Bytes that were damaged on their way are refused."""
    name = s3.name(f"tmp/probe-{ambient.new_id()}/checksum")
    try:
        s3.send("PutObject", "tmp", Key=name, Body=b"sent", ChecksumCRC32="AAAAAA==")
    except AccessDeniedError:
        raise
    except (UnavailableError, UnsupportedRequestError):
        return Finding(check="checksums", state=State.OK, found="tried: bytes that do not fit theirs are refused")
    s3.ask("DeleteObject", "tmp", Key=name)
    fix = "upload over https; eoctl checkpoint verify finds what was damaged on its way"
    found = "the server stores bytes that do not fit their checksum"
    return Finding(check="checksums", state=State.WARNING, found=found, fix=fix)


def _rules(s3: S3Client) -> list[dict[str, Any]] | EoctlError:
    """The lifecycle rules that are on and can meet what is below our prefix; or why they are not known."""
    try:
        reply = s3.ask("GetBucketLifecycleConfiguration", s3.location.bucket)
    except EoctlError as error:
        return [] if _NO_RULES in error.message or isinstance(error, UnsupportedRequestError) else error
    ours = s3.name("")
    return [rule for rule in reply.get("Rules", ()) if rule.get("Status") == "Enabled" and _meets(rule, ours)]


def _meets(rule: dict[str, Any], ours: str) -> bool:
    """What we write has no tags, so a rule that asks for one lets it be."""
    wanted = rule.get("Filter", {})
    both = wanted.get("And", {})
    if "Tag" in wanted or both.get("Tags"):
        return False
    prefix = str(rule.get("Prefix") or wanted.get("Prefix") or both.get("Prefix") or "")
    return prefix.startswith(ours) or ours.startswith(prefix)


def _lifecycle(s3: S3Client, rules: list[dict[str, Any]] | EoctlError) -> Finding:
    """No rule deletes or archives what snapshots need, however old it is."""
    if isinstance(rules, EoctlError):
        raise AccessDeniedError(rules.message, hint="the credentials need s3:GetLifecycleConfiguration to see it")
    for rule in rules:
        name = rule.get("ID", "without a name")
        expiration = rule.get("Expiration", {})
        if "Days" in expiration or "Date" in expiration:
            when = f"after {expiration['Days']} days" if "Days" in expiration else f"on {expiration['Date']}"
            found = f"the rule {name} deletes objects {when}: blobs that snapshots still need as well"
            fix = f"take {s3.name('') or 'this bucket'} out of that rule; eoctl gc deletes what nobody needs"
            return Finding(check="lifecycle", state=State.BAD, found=found, fix=fix)
        if archives := {str(move.get("StorageClass")) for move in rule.get("Transitions", ())} & _ARCHIVES:
            found = (
                f"the rule {name} moves objects to {', '.join(sorted(archives))}, from where no restore can read them"
            )
            fix = f"take {s3.name('') or 'this bucket'} out of that rule, or let it move them to an instant class"
            return Finding(check="lifecycle", state=State.BAD, found=found, fix=fix)
    return Finding(check="lifecycle", state=State.OK, found="no rule deletes or archives what is stored here")


def _versioning(s3: S3Client, rules: list[dict[str, Any]] | EoctlError) -> Finding:
    try:
        status = str(s3.ask("GetBucketVersioning", s3.location.bucket).get("Status", "off"))
    except UnsupportedRequestError:
        status = "off"
    if status != "Enabled":
        return Finding(check="versioning", state=State.OK, found=status.lower())
    if isinstance(rules, list) and any("NoncurrentVersionExpiration" in rule for rule in rules):
        return Finding(check="versioning", state=State.OK, found="on, and a rule removes old versions")
    found = "on: what gc deletes stays as an old version, and costs as much as before"
    fix = "add a lifecycle rule NoncurrentVersionExpiration for this prefix, say after 7 days"
    return Finding(check="versioning", state=State.WARNING, found=found, fix=fix)
