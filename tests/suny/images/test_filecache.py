"""What is derived from files and kept: never of a changed file, whole with many writers, and a second start reads no image."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from suny.images import filecache
from suny.images.cub import Cub
from suny.images.dataset import Dataset, ImageList
from suny.images.demo import Demo
from suny.images.filecache import FileCache
from suny.images.imagefolder import ImageFolder
from suny.images.photographs import Photographs
from tests.conftest import ROOT, Cli, small_birds
from tests.suny.images.test_datasets import ilsvrc2012, official, xml


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that a test has just made count as old, but for the tests of that."""
    monkeypatch.setattr(filecache, "SETTLED", 0.0)


@pytest.fixture
def cache(tmp_path: Path) -> FileCache:
    return FileCache(tmp_path / "caches", str(tmp_path / "data"))


class Counting:
    """Derives a file's text, and counts how often."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, path: Path) -> str:
        self.read.append(path.name)
        return path.read_text()


def derive(cache: FileCache, *paths: Path) -> tuple[list[str], list[str]]:
    """What is derived from files, and the names of those that were read."""
    counting = Counting()
    with cache.open("texts") as store:
        return [store.derived(p, "text1", counting) for p in paths], counting.read


def lines(file: Path) -> list[bytes]:
    return [line for line in file.read_bytes().split(b"\n") if line]


def whole(line: bytes) -> bool:
    """Whether a line is as it was written, told without the module's own reader."""
    checksum, text = line.split(b" ", 1)
    return int(checksum, 16) == zlib.crc32(text) and isinstance(json.loads(text), list)


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    """Ten files of one size."""
    (tmp_path / "data").mkdir()
    paths = [tmp_path / "data" / f"{i}.txt" for i in range(10)]
    for i, path in enumerate(paths):
        path.write_text(f"text {i}")
    return paths


SAID = [f"text {i}" for i in range(10)]


def kept_in(cache: FileCache) -> Path:
    assert cache.folder is not None
    (file,) = cache.folder.glob("*.texts.jsonl")
    return file


# one writer


def test_a_file_is_read_once(cache: FileCache, texts: list[Path]) -> None:
    assert derive(cache, *texts) == (SAID, [p.name for p in texts])
    assert derive(cache, *texts) == (SAID, [])
    assert derive(FileCache(cache.folder, "elsewhere"), texts[3]) == (["text 3"], ["3.txt"])  # another data set


def test_kinds_do_not_mix(cache: FileCache, texts: list[Path]) -> None:
    with cache.open("texts") as store:
        assert store.derived(texts[0], "text1", Path.read_text) == "text 0"
        assert store.derived(texts[0], "text2", lambda path: path.read_text().upper()) == "TEXT 0"


def rewritten(path: Path) -> None:
    path.write_text("TEXT 4")


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("TEXT 4")
    os.replace(other, path)


def rewritten_with_the_old_mtime(path: Path) -> None:
    before = path.stat()
    path.write_text("TEXT 4")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def behind_a_link(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("TEXT 4")
    path.unlink()
    path.symlink_to(other)


@pytest.mark.parametrize("change", [rewritten, replaced, rewritten_with_the_old_mtime, behind_a_link])
def test_a_changed_file_of_the_same_size_is_read_again(cache: FileCache, texts: list[Path], change: Any) -> None:
    derive(cache, *texts)
    before = os.stat(texts[4])
    while True:  # until the file system's clock has ticked: what settling is for
        change(texts[4])
        after = os.stat(texts[4])
        if after.st_ctime_ns != before.st_ctime_ns:
            break
        texts[4].unlink()
    assert after.st_size == before.st_size
    assert derive(cache, *texts) == ([*SAID[:4], "TEXT 4", *SAID[5:]], ["4.txt"])
    assert derive(cache, *texts)[1] == []


def test_a_file_that_could_change_in_the_same_tick_is_not_kept(
    cache: FileCache, texts: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = max(p.stat().st_ctime_ns for p in texts)
    monkeypatch.setattr(filecache, "SETTLED", 2.0)
    for later, again in ((1.9, True), (2.1, True), (2.1, False)):  # the one who reads late enough keeps it
        monkeypatch.setattr(filecache.time, "time_ns", lambda now=changed + int(later * 1e9): now)
        assert derive(cache, texts[-1]) == (["text 9"], ["9.txt"] if again else [])


def test_a_file_that_changes_while_it_is_read_is_not_kept(cache: FileCache, texts: list[Path]) -> None:
    def late(path: Path) -> str:
        found = path.read_text()
        path.write_text("longer than before")
        return found

    with cache.open("texts") as store:
        assert store.derived(texts[0], "text1", late) == "text 0"
    assert derive(cache, texts[0]) == (["longer than before"], ["0.txt"])


def test_errors_and_missing_files_are_not_kept(cache: FileCache, texts: list[Path]) -> None:
    def fails(path: Path) -> str:
        raise ValueError

    with pytest.raises(ValueError), cache.open("texts") as store:  # noqa: PT011, PT012
        assert store.derived(texts[0].with_name("none"), "text1", lambda path: "absent") == "absent"
        store.derived(texts[0], "text1", fails)
    texts[0].with_name("none").write_text("there")
    assert derive(cache, texts[0], texts[0].with_name("none")) == (["text 0", "there"], ["0.txt", "none"])


# damage


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def garbage(file: Path) -> None:
    file.write_bytes(random.Random(0).randbytes(5000))


def garbage_inside(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:200] + random.Random(0).randbytes(300) + content[260:])


def a_digit(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"text 7"', b'"text 8"'))


def nothing_known(file: Path) -> None:
    text = b'[["text1",3],"no entry",[[],"",0]]'
    file.write_bytes(b"%08x %s\n" % (zlib.crc32(text), text))


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [truncated, emptied, garbage, garbage_inside, a_digit, nothing_known, a_folder, Path.unlink])
def test_damage_is_read_over_and_mended(
    cache: FileCache, texts: list[Path], monkeypatch: pytest.MonkeyPatch, damage: Any
) -> None:
    monkeypatch.setattr(filecache, "_BATCH", 3)
    derive(cache, *texts)
    file = kept_in(cache)
    damage(file)
    said, read = derive(cache, *texts)
    assert said == SAID
    assert 1 <= len(read) <= 10
    if damage is not a_folder:
        assert derive(cache, *texts) == (SAID, [])
        spoilt = sum(len(line) for line in lines(file) if not whole(line))
        assert spoilt <= filecache._DAMAGED * file.stat().st_size  # or else the file was replaced


def test_little_damage_is_left_where_it_is(cache: FileCache, texts: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filecache, "_BATCH", 1)
    derive(cache, *texts)
    file = kept_in(cache)
    with file.open("ab") as end:
        end.write(b"torn")  # without an end of line: the next writer's line stays whole
    before = file.read_bytes()
    other = texts[0].with_name("other")
    other.write_text("new")
    assert derive(cache, *texts, other) == ([*SAID, "new"], ["other"])
    assert file.read_bytes().startswith(before)
    assert derive(cache, *texts, other) == ([*SAID, "new"], [])


def test_earlier_states_do_not_pile_up(cache: FileCache, texts: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filecache, "_BATCH", 1)
    sizes = []
    for length in range(100):  # a state each
        texts[0].write_text("x" * length)
        assert derive(cache, texts[0])[0] == ["x" * length]
        sizes.append(len(lines(kept_in(cache))))
    assert max(sizes) <= filecache._ENTRIES * 2 + 1
    assert derive(cache, texts[0])[1] == []


# where nothing can be kept


def test_without_a_folder_that_can_be_written(tmp_path: Path, texts: list[Path]) -> None:
    (tmp_path / "file").write_text("in the way")
    for cache in (FileCache(tmp_path / "file", "data"), FileCache(None), FileCache(tmp_path / "none", "data", writes=False)):
        for _ in range(2):
            assert derive(cache, *texts) == (SAID, [p.name for p in texts])
    assert not (tmp_path / "none").exists()
    assert (tmp_path / "file").read_text() == "in the way"


def test_what_is_there_is_used_by_who_writes_nothing(cache: FileCache, texts: list[Path]) -> None:
    derive(cache, *texts[:5])
    before = sorted((p.name, p.read_bytes()) for p in kept_in(cache).parent.iterdir())
    reader = FileCache(cache.folder, cache.place, writes=False)
    assert derive(reader, *texts) == (SAID, [p.name for p in texts[5:]])
    assert sorted((p.name, p.read_bytes()) for p in kept_in(cache).parent.iterdir()) == before


def test_where_locks_do_not_work(cache: FileCache, texts: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(filecache.FileLock, "acquire", refused)
    assert derive(cache, *texts)[0] == SAID
    assert derive(cache, *texts) == (SAID, [])


# many writers


# a process: derives all files, in lines of one, beside others that do the same; without the package, which imports torch
_WRITER = """
import importlib.util, sys
from pathlib import Path

file, caches, folder, locks = sys.argv[1:]
spec = importlib.util.spec_from_file_location("filecache", file)
filecache = sys.modules["filecache"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(filecache)
filecache.SETTLED, filecache._BATCH = 0.0, 1

def refusing(_):
    raise NotImplementedError

if locks == "False":
    filecache.FileLock = refusing
paths = sorted(Path(folder).iterdir())
print("ready", flush=True)
sys.stdin.read()  # until all are let go
with filecache.FileCache(Path(caches), folder).open("texts") as store:
    assert [store.derived(p, "text1", Path.read_text) for p in paths] == [p.read_text() for p in paths]
"""


@pytest.mark.parametrize("locks", [True, False])
def test_many_writers_at_once(tmp_path: Path, locks: bool) -> None:
    folder, count = tmp_path / "data", 6
    folder.mkdir()
    for i in range(150):
        (folder / f"{i:03d}.txt").write_text(f"{i}" * (1 + 37 * (i % 50)))  # lines of 100 to 6000 bytes
    cache = FileCache(tmp_path / "caches", str(folder))
    command = [sys.executable, "-c", _WRITER, str(filecache.__file__), str(cache.folder), str(folder), str(locks)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(count)]
    assert [p.stdout.readline() for p in processes if p.stdout] == ["ready\n"] * count
    for process in processes:
        process.stdin.close()  # type: ignore[union-attr]
    assert [p.wait() for p in processes] == [0] * count
    written = lines(kept_in(cache))
    assert all(whole(line) for line in written)
    assert len(written) == 150 if locks else 150 <= len(written) <= 150 * count  # with locks, one has read for all
    paths = sorted(folder.iterdir())
    assert derive(cache, *paths) == ([p.read_text() for p in paths], [])


# data sets


def datasets(tmp_path: Path) -> Iterator[Dataset]:
    root = official(tmp_path / "ilsvrc", count=5)
    (root / "Data/CLS-LOC/val/ILSVRC2012_val_00000002.JPEG").unlink()
    (root / "Data/CLS-LOC/val/ILSVRC2012_val_00000003.JPEG").write_bytes(b"no image")
    xml(root / "Annotations/CLS-LOC/val/ILSVRC2012_val_00000004.xml", [(1, 2, 3, 4), (5, 6, 49, 39)], name="n01440764")
    (root / "Annotations/CLS-LOC/val/ILSVRC2012_val_00000005.xml").write_text("<annotation>")
    yield ilsvrc2012(root, strict=False)
    yield ilsvrc2012(root, strict=False, limit=2)
    yield Cub(name="cub", root=str(small_birds(tmp_path, train=2, test=2)), split="all")
    for wnid in ("n01440764", "n01443537"):
        (tmp_path / "plain" / wnid).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (9, 9), (i, 0, 0)).save(tmp_path / "plain" / wnid / f"{wnid}_{i}.png")
    yield ImageFolder(name="imagefolder", root=str(tmp_path / "plain"))
    yield Photographs(name="photographs", root=str(root), folder=str(tmp_path / "plain"), part="all", strict=False)


def test_a_list_is_the_same_with_a_cache_and_without(tmp_path: Path) -> None:
    for at, dataset in enumerate(datasets(tmp_path)):
        plain = dataset.load()
        for _ in range(2):
            cached = dataset.load(FileCache(tmp_path / "caches", f"{dataset.root}"))
            assert cached == plain, at
            assert cached.digest == plain.digest, at


def test_the_digest_stays_what_committed_cards_say(tmp_path: Path) -> None:
    card = yaml.safe_load(sorted((ROOT / "results/reference/demo").rglob("card.yaml"))[0].read_text())
    for cache in (None, *[FileCache(tmp_path, "demo")] * 2):
        assert Demo(name="demo").load(cache).digest == card["identity"]["images"]["sha256"]


def test_a_changed_image_changes_the_digest_and_is_checked_again(tmp_path: Path) -> None:
    root = official(tmp_path / "data")
    cache = FileCache(tmp_path / "caches", str(root))
    before = ilsvrc2012(root).load(cache)
    image, note = (root / f"{kind}/CLS-LOC/val/ILSVRC2012_val_00000002" for kind in ("Data", "Annotations"))
    assert before.digest == ilsvrc2012(root).load(cache).digest
    Image.new("RGB", (20, 40), (1, 2, 3)).save(image.with_suffix(".JPEG"))
    xml(note.with_suffix(".xml"), [(1, 2, 3, 4)], name="n01443537", size=(20, 40))
    after = ilsvrc2012(root).load(cache)
    assert after == ilsvrc2012(root).load()
    assert after.digest == ilsvrc2012(root).load().digest != before.digest
    assert after.samples[1].annotated_size == (20, 40)


def test_a_digest_without_an_image_that_cannot_be_read_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = official(tmp_path / "data")
    cache = FileCache(tmp_path / "caches", str(root))
    before = ilsvrc2012(root).load().digest
    opened = Path.open

    def failing(path: Path, *arguments: Any, **keys: Any) -> Any:
        if path.name == "ILSVRC2012_val_00000002.JPEG":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **keys)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "open", failing)
        assert ilsvrc2012(root).load(cache).digest != before
    assert ilsvrc2012(root).load(cache).digest == before


_START = """
import sys
from pathlib import Path

import pandas  # which lists are read with: its own files are not counted
from suny.images.filecache import FileCache
from suny.images.ilsvrc2012 import Ilsvrc2012

root, caches = sys.argv[1:]
opened = []
sys.addaudithook(lambda event, found: opened.append(str(found[0])) if event == "open" else None)
counter = Path("/proc/self/io")

def count():
    return int(counter.read_text().split()[1]) if counter.exists() else 0

before = count()
digest = Ilsvrc2012(name="ilsvrc2012", root=root).load(FileCache(Path(caches), root)).digest
print(digest, count() - before, sum(name.endswith((".JPEG", ".xml")) for name in opened), len(opened))
"""


def test_a_second_start_reads_no_byte_of_the_images(tmp_path: Path) -> None:
    root, count = official(tmp_path / "data", count=40), 40
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    for path in (root / "Data/CLS-LOC/val").iterdir():
        Image.fromarray(pixels).save(path, quality=100)
        path.write_bytes(path.read_bytes() + bytes(200_000))  # of which a fingerprint has 64 kB at each end
    first = ilsvrc2012(root).load(FileCache(tmp_path / "caches", str(root))).digest
    command = [sys.executable, "-c", _START, str(root)]
    known, new = (
        subprocess.run([*command, str(tmp_path / name)], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
        for name in ("caches", "none")
    )
    assert known[0] == new[0] == first
    assert int(known[2]) == 0
    assert int(known[3]) > 0  # the lists and the cache: files are counted
    assert int(new[2]) == 3 * count  # a size, an annotation, a fingerprint of each
    if Path("/proc/self/io").exists():
        assert int(known[1]) < 200_000 < count * 2 * 65536 < int(new[1])


def test_a_second_cell_opens_an_image_once(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a sweep's cells the first reads sizes and fingerprints; each decodes its images."""
    root = official(tmp_path / "data")
    caches = f"caches={tmp_path / 'caches'}"
    common = ("dataset=ilsvrc2012", f"dataset.root={root}", "model=causal_cnn", "metrics=[energy_proportion]")
    opened: list[str] = []
    monkeypatch.setattr("builtins.open", _counting(open, opened))
    monkeypatch.setattr(Path, "open", _counting(Path.open, opened))
    each = []
    for method in ("center", "random"):
        opened.clear()
        ended = cli(*common, f"method={method}", caches, f"results_dir={tmp_path / 'results'}")
        assert ended.code == 0, ended.err
        each.append(sum(name.endswith(".JPEG") for name in opened))
    assert each == [9, 3]
    dry = cli(*common, "method=edges", f"caches={tmp_path / 'none'}", f"results_dir={tmp_path / 'r'}", "dry_run=true")
    assert dry.code == 0, dry.err
    assert not (tmp_path / "none").exists()
    off = cli(*common, "method=edges", "caches=null", f"results_dir={tmp_path / 'results'}")
    assert off.code == 0, off.err


def _counting(opener: Any, opened: list[str]) -> Any:
    def call(path: Any, *arguments: Any, **keys: Any) -> Any:
        opened.append(str(path))
        return opener(path, *arguments, **keys)

    return call


def test_lists_of_one_run_do_not_know_their_cache(tmp_path: Path) -> None:
    """Where a list's digest is kept is no part of what it is."""
    one = ImageList((), {}, "own", has_boxes=False)
    assert one == ImageList((), {}, "own", has_boxes=False, cache=FileCache(tmp_path, "x"))
    assert "cache" not in repr(one)
