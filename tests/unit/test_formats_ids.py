"""Names and numbers: what is one, and what only looks like one."""

from __future__ import annotations

import pytest

from formats.errors import BadManifestError, BadNameError
from formats.ids import BlobKey, HashAlgorithm, PipelineId, check_name, operator_id

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize("name", ["a", "0", "orders", "orders.v2", "a-b_c.d", "x" * 63, "con1", "nul.x"])
def test_a_pipeline_may_be_called_so(name) -> None:
    assert PipelineId(name).name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * 64,
        "Orders",
        "-a",
        ".a",
        "_a",
        "..",
        ".",
        "a/b",
        "a\\b",
        "a b",
        "a\n",
        "a\0",
        "ä",
        "a@1",
        "a#1",
        "a%2fb",
        "con",
        "prn",
        "aux",
        "nul",
        "latest",
        "\u0661",
        "a\u200b",
    ],
)
def test_a_pipeline_may_not_be_called_so(name) -> None:
    with pytest.raises(BadNameError):
        PipelineId(name)
    with pytest.raises(BadNameError):
        check_name(name, "store")


@pytest.mark.parametrize("text", [f"{HEX}.0", f"{HEX}.1", f"{HEX}.{2**53}"])
def test_a_blob_key_is_a_digest_and_an_era(text) -> None:
    assert str(BlobKey.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX,
        f"{HEX}.",
        f"{HEX}.-1",
        f"{HEX}.+1",
        f"{HEX}.01",
        f"{HEX}.1.0",
        f"{HEX}.1e3",
        f"{HEX}. 1",
        f"{HEX}.1 ",
        f"{HEX}.1\n",
        f"{HEX}.{2**53 + 1}",
        f"{HEX}.99999999999999999",
        f"{HEX}.\u0661",
        f"{HEX.upper()}.1",
        f"{HEX[1:]}.1",
        f"{HEX}0.1",
        f"{HEX[:-1]}g.1",
        f"../{HEX}.1",
        f"{HEX}_1",
    ],
)
def test_what_is_no_blob_key_is_refused(text) -> None:
    with pytest.raises(BadManifestError):
        BlobKey.parse(text)


def test_blob_keys_sort_by_digest_and_then_by_number() -> None:
    keys = [BlobKey.parse(f"{HEX}.{era}") for era in (10, 9, 1)]
    assert [key.era for key in sorted(keys)] == [1, 9, 10]


@pytest.mark.parametrize(
    ("algorithm", "digest"),
    [
        (HashAlgorithm.SHA256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (HashAlgorithm.BLAKE3, "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"),
    ],
)
def test_the_hashes_are_the_ones_they_are_called(algorithm, digest) -> None:
    assert algorithm.digest(b"abc") == digest


def test_an_operator_id_is_that_of_flink() -> None:
    # Source: Flink, `StreamGraphHasherV2`, murmur3_128(0) of the uid in UTF-8.
    assert operator_id("") == "0" * 32
    assert len(operator_id("totals")) == 32
