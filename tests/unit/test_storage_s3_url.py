"""What an s3:// URL may say, and that nothing of it costs a store on disk anything."""

from __future__ import annotations

import subprocess
import sys

import pytest

from formats.errors import UsageError
from storage.backends.s3_url import Location, parse_location

FULL = (
    "s3://a.bucket-1/tenants/orders.eu"
    "?endpoint_url=https%3A%2F%2Fminio.example%3A9000&region=eu-central-1&path_style=true"
    "&sse=aws%3Akms&sse_kms_key_id=arn%3Aaws%3Akms%3Aeu%3A1%3Akey%2F2&request_payer=requester"
)


def test_a_url_says_where_the_store_is_and_how_to_get_there() -> None:
    assert parse_location("s3://bucket") == Location(bucket="bucket", prefix="")
    assert parse_location("s3://bucket/a/b/") == Location(bucket="bucket", prefix="a/b")
    assert parse_location(FULL) == Location(
        bucket="a.bucket-1",
        prefix="tenants/orders.eu",
        endpoint_url="https://minio.example:9000",
        region="eu-central-1",
        path_style="true",
        sse="aws:kms",
        sse_kms_key_id="arn:aws:kms:eu:1:key/2",
        request_payer="requester",
    )


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s3://", "bucket"),
        ("s3:///prefix", "bucket"),
        ("s3://b", "bucket"),
        ("s3://Bucket", "bucket"),
        ("s3://two..dots", "bucket"),
        ("s3://bucket:9000/x", "bucket"),
        ("s3://bucket/../x", "prefix"),
        ("s3://bucket/a//b", "prefix"),
        ("s3://bucket/with space", "prefix"),
        ("s3://bucket/a#b", "prefix"),
        ("s3://bucket/p?region", "OPTION=VALUE"),
        ("s3://bucket/p?region=", "OPTION=VALUE|empty"),
        ("s3://bucket/p?zone=eu", "unknown option: 'zone'"),
        ("s3://bucket/p?region=eu&region=us", "twice"),
        ("s3://bucket/p?region=e%0Au", "region"),
        ("s3://bucket/p?path_style=yes", "path_style"),
        ("s3://bucket/p?endpoint_url=ftp://host", "endpoint"),
        ("s3://bucket/p?endpoint_url=host:9000", "endpoint"),
        ("s3://bucket/p?sse=rot13", "sse"),
        ("s3://bucket/p?sse_kms_key_id=k", "sse=aws:kms"),
        ("s3://bucket/p?request_payer=me", "request_payer"),
    ],
)
def test_a_url_that_is_wrong_is_refused_with_the_reason(url: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        parse_location(url)


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:hunter2@bucket/p",
        "s3://bucket/p?endpoint_url=https%3A%2F%2Fme%3Ahunter2%40host",
        "s3://bucket/p?aws_secret_access_key=hunter2",
        "s3://bucket/p?access_key=hunter2",
        "s3://bucket/p?session_token=hunter2",
        "s3://bucket/p?password=hunter2",
        "s3://bucket/p?X-Amz-Signature=hunter2",
    ],
)
def test_credentials_in_a_url_are_refused_and_never_printed(url: str) -> None:
    with pytest.raises(UsageError, match="holds credentials") as caught:
        parse_location(url)
    assert "hunter2" not in f"{caught.value.message}{caught.value.hint}"
    assert caught.value.hint


def test_a_store_on_disk_is_opened_without_what_s3_needs(tmp_path) -> None:
    code = (
        "import sys\n"
        "from eoctl.cli.main import main\n"
        "assert main(['store', 'init', sys.argv[1]]) == 0\n"
        "assert main(['store', 'info', '--store', sys.argv[1]]) == 0\n"
        "print(sorted(name for name in sys.modules if name.partition('.')[0] in {'boto3', 'botocore', 's3transfer'}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store")], capture_output=True, text=True, check=True, cwd="."
    )
    assert done.stdout.splitlines()[-1] == "[]"
