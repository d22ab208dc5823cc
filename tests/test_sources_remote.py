"""Sources at an address: an object store (a real moto server) and a web server with ranges."""

import socket
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from foreign_sources import (
    FILES,
    MAKERS,
    write_shards,
)
from range_server import RangeServer, serving
from raw_images import (
    encoded,
    params_for,
    picture,
    rows_of,
    run_stages,
    write_files,
    write_tar,
    write_zip,
)

from imagemill import records
from imagemill.errors import UserError
from imagemill.ingest import ingest
from imagemill.scan import disk_needed, scan
from imagemill.sources import Frame, RawReader, kind_of, open_source

BUCKET = "s3://images"


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """Address of an S3 server."""
    pytest.importorskip("s3fs", reason="s3fs is in the extra s3")
    server = pytest.importorskip("moto.server", reason="moto is for tests").ThreadedMotoServer(
        ip_address="127.0.0.1", port=0, verbose=False
    )
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket, and the environment that leads to it."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", store)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    filesystem = s3fs.S3FileSystem(use_listings_cache=False)
    filesystem.mkdir("images")
    yield BUCKET
    filesystem.rm("images", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[RangeServer]:
    """A web server over `tmp_path/www`."""
    (tmp_path / "www").mkdir()
    with serving(tmp_path / "www") as server:
        yield server


def upload(files: dict[str, bytes], prefix: str) -> str:
    """Put files below a prefix of the bucket; returns its address."""
    import s3fs

    filesystem = s3fs.S3FileSystem(use_listings_cache=False)
    for name, content in files.items():
        filesystem.pipe_file(f"images/{prefix}/{name}", content)
    return f"{BUCKET}/{prefix}"


def files_below(folder: Path) -> dict[str, bytes]:
    """Relative path -> content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def content_of(root: Path, source: str) -> dict[str, bytes]:
    """Path -> bytes of all images of a source."""
    with RawReader(root) as reader:
        return {
            image.path: reader.read(image.uri, image.offset, image.size_bytes)
            for image in open_source(root, source).images()
        }


def facts_of(root: Path, source: str) -> dict[str, tuple[str | None, str | None, str | None]]:
    """Path -> (split, class, annotation)."""
    images = open_source(root, source).images()
    return {image.path: (image.split, image.target, image.annotation) for image in images}


def log_of(root: Path, source: str) -> str:
    """What ingest says."""
    lines: list[str] = []
    ingest(root, params_for(source).ingest, log=lines.append)
    return lines[-1]


def refusal(root: Path, source: str) -> str:
    """The message of the error that a source ends with."""
    with pytest.raises(UserError) as caught:
        content_of(root, source)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# Every kind ----------------------------------------------------------------------------------

KINDS = ["cifar", "coco", "folder", "idx", "manifest_file", "parquet", "voc", "webdataset"]


@pytest.mark.parametrize("kind", KINDS)
def test_object_store_holds_every_kind(tmp_path: Path, bucket: str, kind: str) -> None:
    """The same images and labels as from disk, and the same kind."""
    MAKERS[kind](tmp_path / "local")
    source = upload(files_below(tmp_path / "local/raw"), "some/where")
    local = "raw"
    if kind == "manifest_file":
        source, local = f"{source}/list.csv", "raw/list.csv"
    assert kind_of(tmp_path, source) == kind
    assert facts_of(tmp_path, source) == facts_of(tmp_path / "local", local)
    assert content_of(tmp_path, source) == content_of(tmp_path / "local", local)


@pytest.mark.parametrize("kind", KINDS)
def test_web_server_holds_every_kind(tmp_path: Path, web: RangeServer, kind: str) -> None:
    """A folder whose page lists links is read like one on disk."""
    MAKERS[kind](tmp_path / "local")
    write_files(web.root, files_below(tmp_path / "local"))
    source, local = f"{web.url}/raw", "raw"
    if kind == "manifest_file":
        source, local = f"{source}/list.csv", "raw/list.csv"
    assert kind_of(tmp_path, source) == kind
    assert facts_of(tmp_path, source) == facts_of(tmp_path / "local", local)
    assert content_of(tmp_path, source) == content_of(tmp_path / "local", local)


@pytest.mark.parametrize("packing", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("place", ["bucket", "web"])
def test_archives_at_an_address(
    tmp_path: Path, bucket: str, web: RangeServer, packing: str, place: str
) -> None:
    """A tar is read by ranges; what is compressed becomes a plain tar in .imagemill first."""
    file = web.root / f"raw.{packing}"
    if packing == "zip":
        write_zip(file, FILES)
    else:
        write_tar(file, FILES, mode="w:gz" if packing == "tar.gz" else "w")
    source = f"{web.url}/raw.{packing}"
    if place == "bucket":
        source = f"{upload({file.name: file.read_bytes()}, 'packed')}/raw.{packing}"
    assert content_of(tmp_path, source) == FILES
    made = list((tmp_path / ".imagemill/sources").glob("*.tar"))
    assert len(made) == (packing != "tar")


def test_brace_notation_on_a_web_server(tmp_path: Path, web: RangeServer) -> None:
    """Shards are named one by one, so the server needs no listing."""
    write_shards(web.root)
    source = web.url + "/train-{000000..000001}.tar"
    assert len(content_of(tmp_path, source)) == 6
    assert "train-000002.tar does not exist" in refusal(tmp_path, source.replace("1}", "2}"))


def test_whole_pipeline_from_an_object_store(tmp_path: Path, bucket: str) -> None:
    """Ingest to shard gives the digest that the same images on disk give."""
    write_files(tmp_path / "local/raw", FILES_OF_24)
    run_stages(tmp_path / "local", params_for("raw"))
    run_stages(tmp_path, params_for(upload(FILES_OF_24, "pile")))
    one, other = (
        records.ShardManifest.read(root / records.SHARD_MANIFEST).digest
        for root in (tmp_path / "local", tmp_path)
    )
    assert one == other


FILES_OF_24 = {f"{name}/{n}.png": picture(n) for n in range(24) for name in [("cat", "dog")[n % 2]]}


def test_names_that_addresses_must_quote(tmp_path: Path, web: RangeServer, bucket: str) -> None:
    """Spaces, percent signs and letters beyond ASCII are names like others."""
    files = {f"c t/{name}.png": picture(n) for n, name in enumerate(["a b", "100%", "ü", "x#y?z"])}
    write_files(web.root / "raw", files)
    assert content_of(tmp_path, f"{web.url}/raw") == files
    del files["c t/x#y?z.png"]
    assert content_of(tmp_path, upload(files, "odd names")) == files


# What is not fetched -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "raw.tar", "raw.tar.gz"])
def test_unchanged_remote_source_is_not_fetched(
    tmp_path: Path, web: RangeServer, kind: str
) -> None:
    """An etag tells that nothing changed: the second ingest fetches no image."""
    write_files(web.root / "folder", FILES)
    write_tar(web.root / "raw.tar", FILES)
    write_tar(web.root / "raw.tar.gz", FILES, mode="w:gz")
    source = f"{web.url}/{kind}"
    assert "; 5 read" in log_of(tmp_path, source)
    web.bodies.clear()
    assert "; 0 read, 5 unchanged" in log_of(tmp_path, source)
    assert not [path for path, _ in web.bodies if path.endswith(".png")]
    assert web.num_bytes < 4000


def test_changed_remote_image_alone_is_fetched(tmp_path: Path, bucket: str) -> None:
    """One new object among five: one is read."""
    source = upload(FILES, "pile")
    log_of(tmp_path, source)
    upload({"cat/000.png": picture(77)}, "pile")
    assert "; 1 read, 4 unchanged" in log_of(tmp_path, source)
    assert rows_of(tmp_path / records.MANIFEST)[0]["size_bytes"] == len(picture(77))


def test_tar_is_read_in_few_requests(tmp_path: Path, web: RangeServer) -> None:
    """Members that follow one another are fetched together: not one request each."""
    write_tar(web.root / "raw.tar", {f"{n % 2}/{n:04d}.png": picture(n) for n in range(500)})
    size = (web.root / "raw.tar").stat().st_size
    log_of(tmp_path, f"{web.url}/raw.tar")
    assert len(web.bodies) < 40
    assert web.num_bytes < 3 * size


def test_large_members_are_skipped_over(tmp_path: Path, web: RangeServer) -> None:
    """Listing a tar of large files fetches their headers, not the files."""
    big = {f"{n % 2}/{n}.png": bytes(3_000_000) for n in range(5)}
    write_tar(web.root / "raw.tar", big)
    assert len(list(open_source(tmp_path, f"{web.url}/raw.tar").images())) == 5
    assert web.num_bytes < 1_000_000


def test_many_images_come_in_the_order_asked_for(tmp_path: Path, bucket: str) -> None:
    """Fetched several at a time, handed out one after the other."""
    source = upload(FILES_OF_24, "pile")
    images = list(open_source(tmp_path, source).images())
    with RawReader(tmp_path) as reader:
        frames = [Frame(i.uri, i.offset, i.size_bytes) for i in reversed(images)]
        found = list(reader.read_many(frames))
    assert found == [FILES_OF_24[image.path] for image in reversed(images)]


def test_plain_tar_belongs_to_the_etag(tmp_path: Path, web: RangeServer) -> None:
    """A changed archive at the same address is fetched again, and the older tar goes."""
    write_tar(web.root / "raw.tar.gz", FILES, mode="w:gz")
    content_of(tmp_path, f"{web.url}/raw.tar.gz")
    changed = FILES | {"dog/new.png": picture(50)}
    write_tar(web.root / "raw.tar.gz", changed, mode="w:gz")
    assert content_of(tmp_path, f"{web.url}/raw.tar.gz") == changed
    assert len(list((tmp_path / ".imagemill/sources").iterdir())) == 1


def test_listing_goes_over_pages(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store hands out so many names at a time; all pages are read."""
    monkeypatch.setattr("imagemill.sources.remote._PAGE_NAMES", 3)
    assert content_of(tmp_path, upload(FILES, "many")) == FILES


# Scan ----------------------------------------------------------------------------------------


def test_scan_of_an_object_store(tmp_path: Path, bucket: str) -> None:
    """Etags are the fingerprint: a changed object of the same size is noticed."""
    params = params_for(upload(FILES, "pile"))
    assert scan(tmp_path, params.ingest).changed
    assert not scan(tmp_path, params.ingest).changed
    upload({"cat/000.png": picture(5)}, "pile")
    assert len(picture(5)) == len(FILES["cat/000.png"])
    assert scan(tmp_path, params.ingest).changed
    assert disk_needed(tmp_path, params) > 300_000_000


# Faults --------------------------------------------------------------------------------------


def test_nothing_at_the_address(tmp_path: Path, web: RangeServer, bucket: str) -> None:
    """404 is told as such."""
    for source in (f"{web.url}/none.tar", f"{web.url}/none", f"{bucket}/none", "s3://nobody/x"):
        assert "does not exist" in refusal(tmp_path, source)


@pytest.mark.parametrize(("status", "told"), [(403, "access denied (403)"), (500, "answers 500")])
def test_server_refuses(tmp_path: Path, web: RangeServer, status: int, told: str) -> None:
    """What the server says is told with the address."""
    write_tar(web.root / "raw.tar", FILES)
    web.status = status
    found = refusal(tmp_path, f"{web.url}/raw.tar")
    assert told in found and web.url in found


def test_no_server(tmp_path: Path) -> None:
    """A port nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/raw.tar"
    assert "no connection to the server" in refusal(tmp_path, url)


def test_no_object_store(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for an endpoint that is not there."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with monkeypatch.context() as changed:
        changed.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        assert "no connection to the server" in refusal(tmp_path, f"{bucket}/x/raw.tar")
    s3fs.S3FileSystem.clear_instance_cache()


def test_wrong_credentials(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """403 of an object store is told as such."""
    import s3fs

    async def denied(*args: object, **kwargs: object) -> None:
        raise PermissionError("Forbidden")

    with monkeypatch.context() as changed:
        changed.setattr(s3fs.S3FileSystem, "_call_s3", denied)
        assert "access denied; check the credentials" in refusal(tmp_path, f"{bucket}/raw.tar")


@pytest.mark.parametrize("packing", ["tar", "tar.gz"])
def test_server_dies_in_the_middle(tmp_path: Path, web: RangeServer, packing: str) -> None:
    """A connection that breaks off each time is told, and nothing half stays."""
    files = {f"{n % 2}/{n}.png": encoded(n, size=64, form="PNG") for n in range(40)}
    write_tar(web.root / f"raw.{packing}", files, mode="w:gz" if packing == "tar.gz" else "w")
    web.breaks_after = 30_000
    assert "the server broke off" in refusal(tmp_path, f"{web.url}/raw.{packing}")
    assert not list(tmp_path.glob(".imagemill/sources/*"))


def test_server_without_ranges(tmp_path: Path, web: RangeServer) -> None:
    """A server that only sends whole files is told before it sends a whole archive."""
    files = {f"{n % 2}/{n}.png": encoded(n, size=64, form="PNG") for n in range(40)}
    write_tar(web.root / "raw.tar", files)
    web.serves_ranges = False
    assert "no range requests" in refusal(tmp_path, f"{web.url}/raw.tar")


def test_image_that_changed_under_our_hands(tmp_path: Path, web: RangeServer) -> None:
    """An image of another size than on record is not handed out."""
    write_files(web.root / "raw", FILES)
    images = list(open_source(tmp_path, f"{web.url}/raw").images())
    write_files(web.root / "raw", {image.path: b"short" for image in images})
    with RawReader(tmp_path) as reader, pytest.raises(UserError, match="has 5 bytes, not the"):
        reader.read(images[0].uri, 0, images[0].size_bytes)


def test_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without s3fs the message says what to install."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(import_module("fsspec.registry")._registry, "s3", raising=False)
    assert "pip install 'imagemill[s3]'" in refusal(tmp_path, "s3://images/x")
