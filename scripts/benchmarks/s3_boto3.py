"""The plainest way to S3 in Python: boto3's `upload_file` and `download_file`, a file each, from eight threads.

python s3_boto3.py put|get FOLDER BUCKET PREFIX ENDPOINT
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3

THREADS = 8


def main() -> None:
    what, folder, bucket, prefix, endpoint = sys.argv[1:]
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    root = Path(folder)
    with ThreadPoolExecutor(THREADS) as pool:
        if what == "put":
            paths = [path for path in root.rglob("*") if path.is_file()]
            names = [f"{prefix}/{path.relative_to(root).as_posix()}" for path in paths]
            done = pool.map(
                lambda pair: client.upload_file(str(pair[0]), bucket, pair[1]), zip(paths, names, strict=True)
            )
        else:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
            names = [item["Key"] for page in pages for item in page["Contents"]]
            targets = [root / name.removeprefix(f"{prefix}/") for name in names]
            for parent in {target.parent for target in targets}:
                parent.mkdir(parents=True, exist_ok=True)
            done = pool.map(
                lambda pair: client.download_file(bucket, pair[1], str(pair[0])), zip(targets, names, strict=True)
            )
        for _ in done:
            pass


if __name__ == "__main__":
    main()
