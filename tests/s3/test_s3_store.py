"""A store in S3 on a real server: what is written with which headers, and what its errors mean."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_pipeline.records.listing import CellFolders, FileKeys, entries_of
from batch_pipeline.records.whole_store import receipt_entries
from batch_pipeline.wire import s3
from batch_pipeline.wire.errors import InvalidConfig, StoreFailed
from batch_pipeline.wire.s3 import S3Access
from batch_pipeline.wire.store import NotInStore, Store, open_store
from tests.s3.conftest import BUCKET, REGION, Actor, Service

pytestmark = pytest.mark.moto

KEY = "arn:aws:kms:eu-west-1:123456789012:key/1234"
SSE = "x-amz-server-side-encryption"


def access_of(service: Service, kms_key: str = "") -> Callable[[], S3Access]:
    def lend() -> dict[str, object]:
        return {"access_key_id": "k", "secret_access_key": "s", "token": None, "expires_at": None}

    return lambda: S3Access(endpoint=service.url, region=REGION, kms_key=kms_key, credentials=lend)


def store_of(service: Service, kms_key: str = "") -> Store:
    return open_store(f"s3://{BUCKET}/some/prefix", reach=access_of(service, kms_key))


def written(store: Store, folder: Path) -> list[str]:
    """Writes in every way; the keys."""
    large = folder / "large"
    large.write_bytes(os.urandom(9 << 20))
    store.put("put", b"a")
    store.put_json("json", {})
    assert store.put_if_absent("claim", b"mine")
    store.put_file("large", large)
    return ["put", "json", "claim", "large"]


@pytest.mark.parametrize("status", [200, 403, 404])
def test_a_web_page_in_place_of_s3_is_told_and_is_no_empty_store(
    page: Callable[[int], str], status: int, tmp_path: Path
) -> None:
    """A sign-in page of a network, or the console of another server on a port beside."""
    store = store_of(Service(url=page(status)))
    file = tmp_path / "file"
    file.write_text("x")
    for call in (
        lambda: list(store.list("receipts/")),
        lambda: store.folders("runs/"),
        lambda: store.put("key", b"x"),
        lambda: store.put_if_absent("key", b"x"),
        lambda: store.put_file("key", file),
        lambda: store.delete(["key"]),
    ):
        with pytest.raises(StoreFailed, match=r"a web page, not S3\. Check aws\.s3_endpoint"):
            call()


def test_what_an_endpoint_is_is_asked_once(service: Service) -> None:
    store = store_of(service)
    assert [*store.list("a/"), *store.list("b/"), *store.folders("c/")] == []
    assert [one.method for one in service.asked] == ["GET", "HEAD", "GET", "GET"]


def test_the_buckets_own_encryption_is_left_alone(service: Service, tmp_path: Path) -> None:
    written(store_of(service), tmp_path)
    assert not [one for one in service.asked if any(name.startswith(SSE) for name in one.headers)]


def test_a_key_of_kms_encrypts_whatever_is_written(service: Service, tmp_path: Path) -> None:
    keys = written(store_of(service, kms_key=KEY), tmp_path)
    begun = [one for one in service.writes() if "partNumber" not in one.query]
    assert len(begun) == len(keys)
    for one in begun:
        assert one.headers[SSE] == "aws:kms"
        assert one.headers[f"{SSE}-aws-kms-key-id"] == KEY
        assert one.headers[f"{SSE}-bucket-key-enabled"] == "true"
    for key in keys:
        head = service.client().head_object(Bucket=BUCKET, Key=f"some/prefix/{key}")
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", KEY)


def test_another_process_with_the_variables_writes_alike(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = store_of(service, kms_key=KEY).variables
    assert not [name for name in variables if "SECRET" in name or "TOKEN" in name or "ACCESS_KEY" in name]
    for name, value in {**variables, "AWS_ACCESS_KEY_ID": "theirs", "AWS_SECRET_ACCESS_KEY": "s"}.items():
        monkeypatch.setenv(name, value)
    open_store(f"s3://{BUCKET}/other").put("key", b"data")
    (one,) = service.writes()
    assert (one.path, one.key_id, one.headers[f"{SSE}-aws-kms-key-id"]) == (f"/{BUCKET}/other/key", "theirs", KEY)
    assert one.headers["authorization"].split("/")[2] == REGION


def test_keys_come_back_as_they_were_written(service: Service) -> None:
    store = store_of(service)
    keys = sorted(f"a/{name}" for name in ("plain", "a b", "c+d=e", "é", "%41", "~@,:", "x/y"))
    for key in keys:
        store.put(key, key.encode())
    assert sorted(entry.key for entry in store.list("a")) == sorted(store.keys("a")) == keys
    assert [store.get(key).decode() for key in keys] == keys
    store.delete([*keys, "a/absent"])
    assert list(store.list("a")) == []


def test_a_thousand_keys_are_a_page(service: Service) -> None:
    store = store_of(service)
    for number in range(1001):
        store.put(f"many/{number}", b"")
    service.asked.clear()
    store.calls.clear()
    assert len(list(store.keys("many"))) == 1001
    assert store.calls["list"] == len(service.asked) == 2
    store.delete([f"many/{number}" for number in range(1001)])
    assert [one.method for one in service.asked[2:]] == ["POST", "POST"]


def test_of_two_claims_one_is_taken(service: Service) -> None:
    store = store_of(service)
    assert store.put_if_absent("claim", b"one")
    assert not store.put_if_absent("claim", b"two")
    assert store.get("claim") == b"one"


def test_a_claim_whose_answer_was_lost_is_known_again(actor: Actor) -> None:
    store = open_store("s3://lab/p", reach=actor.reach)
    # It took effect, and the gateway says 500; obstore asks again and meets its own object.
    actor.will(500, "InternalError")
    actor.will(412, "PreconditionFailed")
    actor.will(200, "mine")
    assert store.put_if_absent("claim", b"mine")
    actor.will(412, "PreconditionFailed")
    actor.will(200, "theirs")
    assert not store.put_if_absent("claim", b"mine")


@pytest.mark.parametrize("answer", [(409, "ConditionalRequestConflict"), (503, "SlowDown"), (500, "InternalError")])
def test_what_may_pass_is_tried_again(
    answer: tuple[int, str], actor: Actor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "CONFLICT_PAUSES", (0.0, 0.0))
    store = open_store("s3://lab/p", reach=actor.reach)
    actor.will(*answer)
    assert store.put_if_absent("claim", b"mine")
    actor.will(*answer)
    store.put("key", b"data")
    actor.will(*answer)
    (tmp_path / "file").write_bytes(b"data")
    store.put_file("key", tmp_path / "file")
    assert actor.asked == ["PUT"] * 6


def test_a_conflict_that_stays_is_a_failure_and_no_refusal(actor: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "CONFLICT_PAUSES", (0.0, 0.0))
    store = open_store("s3://lab/p", reach=actor.reach)
    for _ in range(3):
        actor.will(409, "ConditionalRequestConflict")
    with pytest.raises(StoreFailed) as raised:
        store.put_if_absent("claim", b"mine")
    assert raised.value.transient


CALLS: dict[str, Callable[[Store], object]] = {
    "get": lambda store: store.get("key"),
    "head": lambda store: store.head("key"),
    "put": lambda store: store.put("key", b""),
    "claim": lambda store: store.put_if_absent("key", b""),
    "list": lambda store: list(store.list("folder")),
    "folders": lambda store: store.folders("folder"),
    "delete": lambda store: store.delete(["a", "b"]),
}


@pytest.mark.parametrize("call", [name for name in CALLS if name != "head"])
@pytest.mark.parametrize(
    ("status", "code", "what", "remedy"),
    [
        (404, "NoSuchBucket", "no such bucket", "--bucket-name"),
        (403, "AccessDenied", "denies access (words of AccessDenied)", "rights"),
        (403, "InvalidAccessKeyId", "does not know the AWS access key", "aws.profile"),
        (403, "SignatureDoesNotMatch", "secret key is wrong", "aws.profile"),
        (403, "RequestTimeTooSkewed", "clock", "Set the clock"),
        (400, "ExpiredToken", "have expired", "aws sso login"),
        (400, "AuthorizationHeaderMalformed", "another region", "aws.region"),
        (301, "PermanentRedirect", "another region", "aws.region"),
        (400, "KMS.DisabledException", "disabled (words of KMS.DisabledException)", "store.kms_key"),
    ],
)
def test_an_error_is_a_sentence_with_its_remedy(
    call: str, status: int, code: str, what: str, remedy: str, actor: Actor
) -> None:
    store = open_store("s3://lab/p", reach=actor.reach)
    actor.will(status, code)
    with pytest.raises(StoreFailed) as raised:
        CALLS[call](store)
    error = raised.value
    assert not isinstance(error, NotInStore)
    assert not error.transient
    assert error.exit_code == 4
    assert error.message.startswith("s3://lab/p/")
    assert what in error.message
    assert remedy in error.message
    assert "\n" not in error.message
    assert len(actor.asked) == 1


@pytest.mark.parametrize(("status", "what"), [(403, "denies access"), (301, "another region")])
def test_a_head_says_it_by_its_status(status: int, what: str, actor: Actor) -> None:
    store = open_store("s3://lab/p", reach=actor.reach)
    actor.will(status)
    with pytest.raises(StoreFailed, match=what):
        store.head("key")


def test_an_absent_object_is_not_an_absent_bucket(service: Service) -> None:
    store = store_of(service)
    with pytest.raises(NotInStore):
        store.get("nothing")
    elsewhere = store.beside("s3://nowhere/prefix")
    for name, call in CALLS.items():
        if name == "head":
            continue  # Without a body nobody can tell.
        with pytest.raises(StoreFailed, match="no such bucket") as raised:
            call(elsewhere)
        assert not isinstance(raised.value, NotInStore)


def test_a_key_that_may_not_be_deleted_is_told(actor: Actor) -> None:
    store = open_store("s3://lab/p", reach=actor.reach)
    refused = "<Error><Key>p/a</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
    actor.will(200, f"<DeleteResult>{refused}</DeleteResult>")
    with pytest.raises(StoreFailed, match="denies access"):
        store.delete(["a", "b"])


def test_a_store_without_a_bucket_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="s3://bucket/prefix"):
        open_store("s3:///prefix", reach=S3Access)


def test_stores_beside_one_are_reached_in_the_same_way(service: Service, tmp_path: Path) -> None:
    folder = open_store(str(tmp_path), reach=access_of(service))
    assert folder.variables == {}
    folder.beside(f"s3://{BUCKET}/elsewhere").put("key", b"")
    assert folder.variables == {"AWS_ENDPOINT_URL_S3": service.url, "AWS_REGION": REGION}


@pytest.mark.parametrize("size_bytes", [0, 1, 9 << 20, 80_000_000_000, 5 << 40])
def test_an_object_has_no_more_parts_than_s3_takes(size_bytes: int) -> None:
    assert s3.part_bytes(size_bytes) >= 5 << 20
    assert -(-size_bytes // s3.part_bytes(size_bytes)) <= 10_000


def page_of(*keys: str, is_cut_off: bool = False) -> str:
    """S3's answer to LIST."""
    objects = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>e</ETag>"
        "<Size>400</Size></Contents>"
        for key in keys
    )
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>" if is_cut_off else ""
    return f"<ListBucketResult>{objects}{more}</ListBucketResult>"


def test_a_page_is_one_call_behind_a_key_and_is_asked_again_when_s3_is_busy(actor: Actor) -> None:
    store = open_store(f"s3://{BUCKET}/some/prefix", reach=actor.reach)
    keys = [f"some/prefix/receipts/a/s{number:04}/f.json" for number in range(1000)]
    actor.will(503, "SlowDown")
    actor.will(200, page_of(*keys, is_cut_off=True))

    entries, is_last = store.page("receipts/a/", "receipts/a/s0.~")

    assert (len(entries), entries[0].key, is_last) == (1000, "receipts/a/s0000/f.json", False)
    assert len(actor.asked) == 2, "the second page is not asked for"
    assert dict(store.calls) == {"list": 1}


def test_a_real_server_lists_from_the_first_wanted_place_on(service: Service) -> None:
    store = store_of(service)
    keys = [f"receipts/a/{name}/f.json" for name in ("s", "s-1", "s.2", "s1", "t")]
    for key in keys:
        store.put(key, b"x")
    service.asked.clear()

    for places, wanted in (
        (CellFolders({"receipts/a/": ["t", "s"]}), [keys[0], keys[4]]),
        (FileKeys(keys[2:4]), keys[2:4]),
    ):
        assert [entry.key for portion in entries_of(store, places) for entry in portion] == wanted

    assert [one.query.count("start-after") for one in service.asked if "list-type=2" in one.query] == [1, 1]
    assert [entry.key for entry in store.page("receipts/", keys[1])[0]] == [keys[2], keys[0], *keys[3:]]


def test_an_object_that_stands_for_a_folder_hides_no_other(actor: Actor) -> None:
    """Consoles and file systems write them: `s/`, which S3 sorts behind `s-b/`, and obstore calls `s`."""
    store = open_store(f"s3://{BUCKET}", reach=actor.reach)
    actor.will(200, page_of("SR/s-b/r.fq", "SR/s/", "SR/s/r.fq"))
    (entries,) = entries_of(store, FileKeys(["SR/s-b/r.fq", "SR/s/r.fq"]))
    assert [entry.key for entry in entries] == ["SR/s-b/r.fq", "SR/s/r.fq"]


def test_a_file_is_listed_whatever_its_name_ends_in(service: Service) -> None:
    store = store_of(service)
    keys = [f"SR/{name}" for name in ("0", "0-", "a", "a ", "a!", "a-", "a.b", "a0", "~", "\u00e9")]
    for key in keys:
        service.client().put_object(Bucket=BUCKET, Key=f"some/prefix/{key}", Body=b"x")
    for key in keys:
        (entries,) = entries_of(store, FileKeys([key]))
        assert [entry.key for entry in entries] == [key]


def test_a_listing_goes_on_when_s3_was_too_busy_for_all_of_its_ranges(service: Service) -> None:
    from moto.s3.models import s3_backends

    store = store_of(service)
    names = [f"s{number:04}" for number in range(1_500)]
    keys = sorted(f"receipts/{step}/{name}/f.json" for step in ("a", "b") for name in names)
    for key in keys:
        s3_backends["123456789012"]["aws"].put_object(BUCKET, f"some/prefix/{key}", b"x")
    cells = CellFolders({"receipts/a/": names, "receipts/b/": names})
    for portions in (entries_of(store, cells), receipt_entries(store)):
        service.asked.clear()
        service.slow_downs = 9
        store.calls.clear()
        assert sorted(entry.key for portion in portions for entry in portion) == keys
        listings = [one for one in service.asked if "list-type=2" in one.query]
        assert service.slow_downs == 0
        # The same requests again, and no others.
        assert len(listings) == 9 + store.calls["list"] <= 9 + 8
