"""What is read of a store, at any kind of one: exactly what is there, within the limit, and nothing from outside."""

from __future__ import annotations

import os
import struct
import zipfile
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.storage import LocalStore, MemoryStore, ZipStore

from devinterp.errors import SettingError, StoreError
from devinterp.schema.reading import access as module
from devinterp.schema.reading.access import (
    EscapeError,
    LocalAccess,
    TooLargeError,
    UnlistableError,
    ZarrAccess,
    open_access,
    read_many,
    safe_key,
)
from devinterp.schema.reading.target import zip_entries

PLACES = ("store", "store/a", "store/a/b", "store/o", "beside", "beside/b")
CONTENT = {"zarr.json": b"{}", "b/zarr.json": b"[]", "b/c/0/1": b"12345678", "b/c/0/10": b"", "a": b"x"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for key, data in CONTENT.items():
        path = tmp_path / "store" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "store"


def memory(content: dict[str, bytes]) -> MemoryStore:
    from zarr.core.buffer import default_buffer_prototype

    make = default_buffer_prototype().buffer.from_bytes
    return MemoryStore({key: make(data) for key, data in content.items()})


@pytest.fixture(params=["folder", "group of a folder", "memory", "group in memory", "archive", "url"])
def access(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Any:
    """The same content at every kind of store."""
    if request.param == "folder":
        return open_access(folder)
    if request.param == "url":
        return open_access(f"file://{folder}")
    if request.param == "memory":
        return open_access(memory(CONTENT))
    if request.param == "archive":
        with zipfile.ZipFile(tmp_path / "store.zip", "w") as archive:
            for key, data in CONTENT.items():
                archive.writestr(key, data)
        return open_access(tmp_path / "store.zip")
    around = {"zarr.json": b'{"zarr_format": 3, "node_type": "group", "attributes": {}}', "inner2/x": b"not ours"}
    inner = {f"inner/{key}": data for key, data in CONTENT.items()} | {"inner/zarr.json": around["zarr.json"]}
    if request.param == "group in memory":
        group = zarr.open_group(memory(around | inner), path="inner", mode="r")
        group.store._store_dict.update(memory({"inner/zarr.json": b"{}"})._store_dict)
        return open_access(group)
    (folder / "zarr.json").write_bytes(around["zarr.json"])
    group = zarr.open_group(LocalStore(folder.parent), path=folder.name, mode="r")
    (folder / "zarr.json").write_bytes(CONTENT["zarr.json"])
    return open_access(group)


def test_objects_are_read_whole_and_none_where_nothing_is(access: Any) -> None:
    for key, data in CONTENT.items():
        assert access.get(key, 8) == data
    for key in ("nothing", "b", "b/c", "a/below/a/file"):
        assert access.get(key, 8) is None
    assert access.get_many(["a", "nothing", "b/zarr.json"], 8) == [b"x", None, b"[]"]


def test_an_object_may_be_as_large_as_the_limit_and_no_larger(access: Any) -> None:
    assert access.get("b/c/0/1", 8) == b"12345678"
    with pytest.raises(TooLargeError, match="at most 7"):
        access.get("b/c/0/1", 7)
    one, other = access.get_many(["b/c/0/1", "a"], 7)
    assert isinstance(one, TooLargeError)
    assert other == b"x"


def test_names_and_keys_are_listed_without_their_prefix(access: Any) -> None:
    assert [e.name for e in access.entries("")] == ["a", "b", "zarr.json"]
    assert {e.name for e in access.entries("") if e.folder} in ({"b"}, {"a", "b"})  # a store object does not know
    assert [e.name for e in access.entries("b/c/0")] == ["1", "10"]
    assert access.entries("nothing") == []
    assert sorted(e.name for e in access.keys("b")) == ["c/0/1", "c/0/10", "zarr.json"]
    assert sorted(e.name for e in access.keys("")) == sorted(CONTENT)
    assert not any(e.folder or e.escapes or e.linked for e in access.keys(""))
    assert access.exist(["a", "nothing", "b/c/0/10", "b/c/0/2"]) == [True, False, True, False]


@pytest.mark.parametrize("key", ["..", "b/../a", "/a", "a/", "b//c", "./a", "a\\b", "a\0", "a\ud800"])
def test_a_key_that_leads_out_is_not_read(access: Any, key: str) -> None:
    assert not safe_key(key)
    with pytest.raises(EscapeError):
        access.get(key, 8)
    with pytest.raises(EscapeError):
        access.entries(key)
    (found,) = access.get_many([key], 8)
    assert isinstance(found, EscapeError)


def test_only_windows_takes_a_colon_for_a_drive(monkeypatch: pytest.MonkeyPatch) -> None:
    assert safe_key("c:/x")
    assert safe_key("a..b/.hidden")
    monkeypatch.setattr(module, "os", SimpleNamespace(name="nt"))
    assert not safe_key("c:/x")
    assert safe_key("c/x")


def test_links_within_are_followed_and_those_out_are_not(folder: Path, tmp_path: Path) -> None:
    beside = tmp_path / "store2"  # its path begins like that of the store
    beside.mkdir()
    (beside / "secret").write_bytes(b"secret")
    (folder / "out").symlink_to(beside)
    (folder / "out.txt").symlink_to(beside / "secret")
    (folder / "in").symlink_to(folder / "b")
    (folder / "in.txt").symlink_to(folder / "a")
    access = LocalAccess(folder)
    found = {e.name: (e.folder, e.escapes, e.linked) for e in access.entries("")}
    assert found["out"] == found["out.txt"] == (False, True, True)
    assert found["in"] == (True, False, True)
    assert found["in.txt"] == (False, False, True)
    assert found["b"] == (True, False, False)
    assert found["a"] == (False, False, False)
    assert access.get("in.txt", 8) == b"x"
    assert access.get("in/zarr.json", 8) == b"[]"
    for key in ("out.txt", "out/secret"):
        with pytest.raises(EscapeError):
            access.get(key, 8)
        with pytest.raises(EscapeError):
            access.exist([key])
    with pytest.raises(EscapeError):
        access.entries("out")
    assert {e.name for e in access.keys("") if e.escapes} == {"out", "out.txt"}


def test_a_linked_folder_is_looked_into_once(folder: Path) -> None:
    (folder / "one").symlink_to(folder / "b" / "c")
    (folder / "two").symlink_to(folder / "b" / "c")
    (folder / "b" / "up").symlink_to(folder)
    names = [e.name for e in LocalAccess(folder).keys("")]
    assert sorted(names) == sorted(
        [*CONTENT, "b/up", *(n for n in ("one", "two") if n in names)]
        + [f"{n}/0/{m}" for n in ("one", "two") if n not in names for m in (1, 10)]
    )
    assert len({"one", "two"} & set(names)) == 1
    (folder / "b" / "up").unlink()
    (folder / "b" / "c" / "up").symlink_to(folder / "b")
    below = [e.name for e in LocalAccess(folder).keys("b")]
    assert sorted(below) == ["c/0/1", "c/0/10", "c/up", "zarr.json"]
    assert not any(e.folder for e in LocalAccess(folder).keys("b"))


def test_folders_are_followed_down_to_64_levels(folder: Path) -> None:
    deep = folder / "/".join(["d"] * 70)
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"")
    names = [e.name for e in LocalAccess(folder).keys("")]
    assert sorted(names) == sorted([*CONTENT, "/".join(["d"] * 65)])


def test_a_whole_file_system_is_inside_itself(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert LocalAccess("/").get(str(tmp_path / "link").strip("/"), 1) == b"x"


def test_what_is_no_file_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(StoreError, match="not a regular file"):
        LocalAccess(folder).get("pipe", 8)


def test_what_cannot_be_read_or_listed_is_an_error_of_the_store(folder: Path) -> None:
    access = LocalAccess(folder)
    with pytest.raises(StoreError, match="cannot be read"):
        access.get("x" * 300, 8)
    with pytest.raises(StoreError, match="cannot be listed"):
        access.entries("x" * 300)
    (found,) = access.get_many(["x" * 300], 8)
    assert isinstance(found, StoreError)


class Failing(MemoryStore):
    """A server that is down."""

    async def get(self, *args: Any, **options: Any) -> Any:
        raise ConnectionError("no route")

    exists = get

    async def list_dir(self, prefix: str) -> Any:
        raise ConnectionError("no route")
        yield

    list_prefix = list_dir


def test_a_transport_that_fails_is_an_error_of_the_store() -> None:
    access = ZarrAccess(Failing(), "it")
    with pytest.raises(StoreError, match=r"a cannot be read: ConnectionError: no route"):
        access.get("a", 8)
    with pytest.raises(StoreError, match=r"it cannot be asked: ConnectionError"):
        access.exist(["a"])
    for listing in (access.entries, lambda prefix: list(access.keys(prefix))):
        with pytest.raises(StoreError, match=r"it cannot be listed: ConnectionError"):
            listing("")


class Counting(MemoryStore):
    """Counts the bytes that it hands out, and how many requests are in flight."""

    given = flying = most = 0

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        import asyncio

        self.flying += 1
        self.most = max(self.most, self.flying)
        await asyncio.sleep(0)
        self.flying -= 1
        found = await super().get(key, prototype, byte_range)
        self.given += 0 if found is None else len(found.to_bytes())
        return found


def test_no_more_than_the_limit_is_fetched_and_not_everything_at_once() -> None:
    store = Counting(memory({"a": bytes(1000)} | {f"x{n}": b"1" for n in range(100)})._store_dict)
    access = ZarrAccess(store, "it")
    with pytest.raises(TooLargeError):
        access.get("a", 10)
    assert store.given == 11
    assert access.get_many([f"x{n}" for n in range(100)], 10) == [b"1"] * 100
    assert 1 < store.most <= module.CONCURRENCY


class Gone(MemoryStore):
    """A folder that is there no more, as some file systems say it."""

    async def list_dir(self, prefix: str) -> Any:
        raise FileNotFoundError(prefix)
        yield


def test_a_folder_that_is_gone_holds_nothing() -> None:
    assert ZarrAccess(Gone(), "it").entries("b") == []


@pytest.mark.parametrize("prefix", ["X", "/X", "X/", "/X/"])
def test_a_prefix_is_a_path(prefix: str) -> None:
    access = ZarrAccess(memory({"X/X": b"x", "X/zarr.json": b"{}"}), "it", prefix)
    assert access.get("X", 1) == b"x"
    assert [e.name for e in access.entries("")] == ["X", "zarr.json"]
    assert sorted(e.name for e in access.keys("")) == ["X", "zarr.json"]


class NoListing(MemoryStore):
    """A web server: it answers as if nothing were there."""

    async def list_dir(self, prefix: str) -> Any:
        for name in ():
            yield name

    list_prefix = list_dir


def test_a_store_without_listings_says_so() -> None:
    access = ZarrAccess(NoListing(memory({**CONTENT, "X/zarr.json": b"{}"})._store_dict), "it")
    for prefix in ("", "b", "X"):
        with pytest.raises(UnlistableError):
            access.entries(prefix)
        with pytest.raises(UnlistableError):
            list(access.keys(prefix))
    for nothing in ("nothing", "XX"):
        assert access.entries(nothing) == []
    assert access.exist(["a", "nothing"]) == [True, False]


def test_many_documents_come_in_their_order_and_large_ones_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 3)
    monkeypatch.setattr(module, "USUAL", 4)
    access = ZarrAccess(memory({f"x{n}": bytes(n) for n in range(10)}), "it")
    found = list(read_many(access, [f"x{n}" for n in range(11)], 8))
    assert found[:9] == [bytes(n) for n in range(9)]
    assert isinstance(found[9], TooLargeError)
    assert found[10] is None


def test_a_name_says_which_store_and_group(folder: Path) -> None:
    (folder / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    (folder / "b" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    assert open_access(zarr.open_group(folder, path="b", mode="r")).name == str(folder / "b")
    assert open_access(LocalStore(folder)).name == str(folder)
    assert isinstance(open_access(LocalStore(folder)), LocalAccess)
    store = memory({})
    assert open_access(store).name == str(store)
    inner = zarr.create_group(memory({}), path="b")
    assert open_access(inner).name == f"{inner.store}/b"


@pytest.mark.parametrize("target", [3, None, b"bytes"])
def test_what_names_no_store_is_refused(target: object) -> None:
    with pytest.raises(SettingError):
        open_access(target)


def test_a_home_is_found_and_one_that_is_not_there_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert open_access("~/store").get("a", 8) == b"x"
    with pytest.raises(StoreError, match="cannot be opened"):
        open_access("~no-such-user/store")


@pytest.mark.needs("fsspec")
def test_a_url_of_no_known_scheme_is_an_error_of_the_store() -> None:
    with pytest.raises(StoreError, match="no-such-scheme"):
        open_access("no-such-scheme://x/y")


def test_a_url_is_opened_to_read_with_the_options_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def from_url(url: str, **options: Any) -> MemoryStore:
        asked.append((url, options))
        return memory(CONTENT)

    monkeypatch.setattr(zarr.storage.FsspecStore, "from_url", from_url)
    access = open_access("s3://somewhere/run.zarr", {"anon": True})
    assert asked == [("s3://somewhere/run.zarr", {"storage_options": {"anon": True}, "read_only": True})]
    assert (access.name, access.get("a", 1)) == ("s3://somewhere/run.zarr", b"x")


def test_an_archive_is_opened_to_read_as_far_as_its_list_fits_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(50):
            archive.writestr(f"{number:02}", b"")
    assert zip_entries(path) == 50 * (46 + 2) // 47 + 1
    before = path.read_bytes()
    assert open_access(path, memory=1024 * zip_entries(path)).get("07", 1) == b""
    assert path.read_bytes() == before
    with pytest.raises(StoreError, match=f"{zip_entries(path)} objects"):
        open_access(path, memory=1024 * zip_entries(path) - 1)
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(StoreError, match="not a ZIP archive"):
        open_access(tmp_path / "text")
    assert isinstance(open_access(ZipStore(path, mode="r")), ZarrAccess)


@pytest.mark.parametrize("comment", [b"", b"c" * 60_000])
def test_the_list_of_an_archive_is_judged_by_the_largest_of_its_sizes(tmp_path: Path, comment: bytes) -> None:
    """An ordinary end may say 2**32 - 1, and then the one of ZIP64 in front of it counts."""
    path = tmp_path / "a.zip"
    listed = 47 * 70_000
    wide = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 70_000, 70_000, listed, 0)
    for size, end in ((0xFFFFFFFF, wide), (listed, b""), (47, wide)):
        tail = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 9, 9, size, 0, len(comment)) + comment
        path.write_bytes(bytes(listed) + end + tail)
        assert zip_entries(path) == 70_001
    path.write_bytes(b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 9, 9, 47 * 9999, 0, 0))
    assert zip_entries(path) == 1  # no list is longer than its file
    path.write_bytes(b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 9, 9, 2**31, 0, 60_000) + bytes(60_000))
    assert zip_entries(path) == 60_022 // 47 + 1


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(links=st.dictionaries(st.sampled_from(["a/l", "a/b/l", "m", "o/l"]), st.sampled_from(PLACES), min_size=1))
def test_what_lies_behind_links_is_read_where_it_lies_in_the_store(
    tmp_path_factory: pytest.TempPathFactory, links: dict[str, str]
) -> None:
    top = tmp_path_factory.mktemp("links")
    for place in PLACES:
        (top / place).mkdir(parents=True, exist_ok=True)
        (top / place / "f").write_bytes(place.encode())
    for name, target in links.items():
        (top / "store" / name).symlink_to(top / target)
    access = LocalAccess(top / "store")
    folders = ["", *("/".join(p) for n in (1, 2, 3) for p in product(("a", "b", "l", "m", "o"), repeat=n))]
    for path in (f"{name}/f".strip("/") for name in folders):
        real = os.path.realpath(top / "store" / path)
        if real.startswith(f"{os.path.realpath(top / 'store')}/"):
            assert access.get(path, 99) == (Path(real).read_bytes() if os.path.exists(real) else None)
        else:
            with pytest.raises(EscapeError):
                access.get(path, 99)
