from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dgbench import cli, download
from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.sources import open_dataset
from dgbench.cli import Parser
from dgbench.core import progress
from dgbench.core.data_cards import DatasetCard
from dgbench.core.errors import UserError
from dgbench.core.site import Site
from dgbench.data import cache_build, cache_format
from dgbench.data.cache import SAMPLED, build_cache, damage_of, ensure_built, open_images
from dgbench.data.cache_format import CacheIndex, ImageCache
from dgbench.data.dataset import ArrayExamples
from dgbench.data.decoding import Decoding
from dgbench.datasets._images import ImageDataset, ImageExamples
from dgbench.datasets.csv_file import csv
from dgbench.datasets.folder import folder
from dgbench.execute.context import open_context
from dgbench.flags import add_options
from dgbench.launchers.values import asked_of, site_of
from dgbench.plan.options import OPTIONS
from dgbench.store.lease import Stopped, claim
from tests.support.in_process import execute, execute_all, records_of, sweep_of, train, training_of
from tests.support.layouts import noise, truncate, write_csv, write_folders, write_image
from tests.support.places import ROOT

DOMAINS, CLASSES = ("art", "photo", "sketch"), ("cat", "dog")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """12 images of one size, 4 a domain."""
    return write_folders(tmp_path / "own", DOMAINS, CLASSES)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """12 images of several sizes, sides larger and smaller than 32."""
    for i in range(12):
        path = tmp_path / "mixed" / DOMAINS[i % 3] / CLASSES[i % 2] / f"{i}.png"
        write_image(path, seed=i, size=(40 + i, 36) if i % 2 else (28, 30 + i))
    return tmp_path / "mixed"


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_build, "BLOCK", 5)


def cache_of(root: Path, size: int = 32) -> ImageCache:
    return folder(path=root, image_size=size).image_cache()


def both(root: Path, size: int = 32) -> list[tuple[ImageExamples, ImageExamples]]:
    """The examples of each domain, from the cache and from the files."""
    dataset = folder(path=root, image_size=size)
    from_files = [dataset.examples(domain, 0) for domain in dataset.domains]
    return [(examples.cached(), examples) for examples in from_files]  # type: ignore[attr-defined]


def everything(examples: ImageExamples, seed: int | None = None) -> NDArray[np.uint8]:
    rng = None if seed is None else np.random.default_rng(seed)
    return examples.batch(np.arange(len(examples.labels)), rng)


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    assert (one.shape, one.dtype) == (other.shape, other.dtype)
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def content(cache: ImageCache) -> list[bytes]:
    return [(cache.folder / name).read_bytes() for name in ("pixels", "sizes", "sums", "index.json")]


def refused(cache: ImageCache) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        ensure_built(cache)
    return caught.value.problems


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What is decoded from now on."""
    found: list[Path] = []
    decode = Decoding.__call__
    monkeypatch.setattr(Decoding, "__call__", lambda self, path: found.append(path) or decode(self, path))
    return found


# -- what is kept -------------------------------------------------------------------------------------------------


def test_images_of_one_small_size_are_kept_as_they_are(root: Path) -> None:
    dataset = folder(path=root, image_size=32)
    images = open_images(dataset.image_cache())
    assert images.index == CacheIndex("folder:own", 12, "bytes", 17, 23, 12 * 17 * 23 * 3, "bilinear", 64)
    assert images.sizes.tolist() == [[23, 17, 17 * 23 * 3]] * 12
    for row, path in enumerate(dataset.image_cache().paths()):
        assert np.array_equal(images[row], np.asarray(Decoding()(path)))


def test_images_of_several_sizes_are_squashed_and_evaluated_as_without_a_cache(mixed: Path) -> None:
    images = open_images(cache_of(mixed))
    assert (images.index.kind, images.pixels.shape) == ("bytes", (12, 32, 32, 3))
    widths = {tuple(size) for size in images.sizes[:, :2].tolist()}
    assert widths == {(40 + i, 36) if i % 2 else (28, 30 + i) for i in range(12)}
    for cached, files in both(mixed):
        assert np.array_equal(everything(cached), everything(files))
        assert everything(cached).flags.c_contiguous
        assert cached.labels is files.labels
        assert cached.batch(np.array([3, 0, 3]), None).tolist() == everything(files)[[3, 0, 3]].tolist()


def test_large_data_sets_are_kept_as_jpegs_with_a_short_side(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_build, "LARGEST", 12 * 32 * 32 * 3 - 1)
    write_image(mixed / "art" / "cat" / "large.png", seed=50, size=(640, 512))
    images = open_images(cache_of(mixed))
    shapes = {tuple(map(int, images.sizes[row, :2])): images[row].shape for row in range(13)}
    assert images.index.kind == "jpeg"
    assert shapes[640, 512] == (256, 320, 3), "shrunk to a short side of 256"
    assert shapes[41, 36] == (36, 41, 3), "never enlarged"
    assert images.pixels.size == images.sizes[:, 2].sum() == images.index.size
    for cached, files in both(mixed):
        assert not cached.mapped
        assert difference(everything(cached), everything(files)) < 2
        assert difference(everything(cached, seed=1), everything(files, seed=1)) < 3


def test_the_short_side_of_jpegs_and_the_limit_of_own_sizes_grow_with_what_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for domain in DOMAINS:
        write_image(tmp_path / "own" / domain / "cat" / "1.png", size=(300, 270))
    assert open_images(cache_of(tmp_path / "own", 224)).pixels.shape == (3, 224, 224, 3)
    assert open_images(cache_of(tmp_path / "own", 280)).pixels.shape == (3, 270, 300, 3)
    monkeypatch.setattr(cache_build, "LARGEST", 0)
    write_image(tmp_path / "own" / "art" / "cat" / "2.png", size=(700, 600))
    assert open_images(cache_of(tmp_path / "own", 448))[1].shape == (512, 597, 3)


def test_images_of_one_small_size_may_take_more(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their JPEGs would have less of them at the same size; what is squashed may not."""
    monkeypatch.setattr(cache_build, "LARGEST", 0)
    paths = cache_of(root).paths()
    assert cache_build.planned(cache_of(root), paths).kind == "bytes"
    monkeypatch.setattr(cache_build, "LARGEST_OWN", 12 * 17 * 23 * 3)
    assert cache_build.planned(cache_of(root), paths).kind == "bytes"
    monkeypatch.setattr(cache_build, "LARGEST_OWN", 12 * 17 * 23 * 3 - 1)
    assert cache_build.planned(cache_of(root), paths).kind == "jpeg"


def test_a_jpeg_that_is_small_enough_is_kept_as_it_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one that says that it is to be turned; but none that OpenCV reads in another way."""
    monkeypatch.setattr(cache_build, "LARGEST", 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(root / "art" / "cat" / "a.jpg", seed=1, mode="L", size=(40, 30))
    noise(2, (50, 30)).save(root / "art" / "cat" / "b.jpg", exif=exif, quality=60)
    write_image(root / "art" / "cat" / "c.jpg", seed=3, mode="CMYK", size=(44, 30))
    write_image(root / "art" / "cat" / "d.png", seed=4, size=(45, 30))
    noise(5, (512, 300)).save(root / "art" / "cat" / "e.jpg", quality=60)
    images, paths = open_images(cache_of(root)), cache_of(root).paths()
    assert images.index.kind == "jpeg"
    kept = {
        path.name: images.pixels[end - size : end].tobytes() == path.read_bytes()
        for path, end, size in zip(paths, images.ends, images.sizes[:, 2], strict=True)
    }
    assert [kept[name] for name in ("a.jpg", "b.jpg", "c.jpg", "d.png", "e.jpg")] == [True, True] + [False] * 3
    for row, path in enumerate(paths):
        if kept[path.name]:
            assert np.array_equal(images[row], np.asarray(Decoding()(path)))


# -- what is read -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["root", "mixed"])
def test_the_same_draws_give_the_same_augmentations(place: str, request: pytest.FixtureRequest) -> None:
    for cached, files in both(request.getfixturevalue(place)):
        for seed in range(5):
            ours, theirs = (everything(examples, seed) for examples in (cached, files))
            assert np.array_equal(ours, everything(cached, seed))
            assert difference(ours, theirs) < 5, "but for resolution"
            assert difference(ours, everything(files, seed + 100)) > 20, "other draws are far away"


def test_as_much_is_drawn_as_without_a_cache(mixed: Path) -> None:
    for pair in both(mixed):
        rngs = [np.random.default_rng(3) for _ in pair]
        for examples, rng in zip(pair, rngs, strict=True):
            examples.batch(np.arange(4), rng)
        assert rngs[0].random() == rngs[1].random()


def test_only_bytes_count_as_mapped(root: Path) -> None:
    (cached, files), *_ = both(root)
    assert cached.mapped
    assert not files.mapped


def test_copies_for_other_processes_carry_no_pixels(root: Path) -> None:
    (cached, files), *_ = both(root)
    assert len(pickle.dumps(cached.images)) < 1000
    assert np.array_equal(everything(pickle.loads(pickle.dumps(files))), everything(files))
    assert np.array_equal(everything(pickle.loads(pickle.dumps(cached)), 4), everything(cached, 4))


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit of pixels": lambda folder: flip(folder / "pixels", 500),
    "a bit of the last pixels": lambda folder: flip(folder / "pixels", -5),
    "a bit of sizes": lambda folder: flip(folder / "sizes", 12),
    "a bit of sums": lambda folder: flip(folder / "sums", 40),
    "pixels cut short": lambda folder: os.truncate(folder / "pixels", 100),
    "no sums": lambda folder: (folder / "sums").unlink(),
    "pixels are a folder": lambda folder: ((folder / "pixels").unlink(), (folder / "pixels").mkdir()),
    "index torn": lambda folder: os.truncate(folder / "index.json", 30),
    "index empty": lambda folder: os.truncate(folder / "index.json", 0),
    "index of other content": lambda folder: (folder / "index.json").write_text("[]"),
    "index of other sizes": lambda folder: (folder / "index.json").write_text(
        (folder / "index.json").read_text().replace('"width": 23', '"width": 22')
    ),
    "index a folder": lambda folder: ((folder / "index.json").unlink(), (folder / "index.json").mkdir()),
}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("limit", [10**9, 0], ids=["bytes", "jpegs"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_told_and_built_again(
    root: Path,
    damage: Callable[[Path], object],
    limit: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cache_build, "LARGEST", limit)
    monkeypatch.setattr(cache_build, "LARGEST_OWN", limit)
    cache = cache_of(root)
    open_images(cache)
    whole = content(cache)
    damage(cache.folder)
    if content_is(cache, whole):
        pytest.skip("an index of JPEGs has other sizes")
    capsys.readouterr()
    open_images(cache)
    assert content(cache) == whole
    assert " is damaged: " in capsys.readouterr().err


def content_is(cache: ImageCache, whole: list[bytes]) -> bool:
    try:
        return content(cache) == whole
    except OSError:
        return False


def test_who_has_mapped_a_damaged_cache_is_not_disturbed_by_its_making(root: Path) -> None:
    cache = cache_of(root)
    images = open_images(cache)
    before = np.array(images.pixels)
    os.truncate(cache.folder / "sizes", 0)
    open_images(cache)
    assert np.array_equal(images.pixels, before)


def test_of_a_large_cache_some_blocks_are_looked_at(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first, the last, and others by chance: in the end each is found."""
    monkeypatch.setattr(cache_build, "BLOCK", 1)
    cache = cache_of(root)
    open_images(cache)
    sums: list[int] = []
    real = cache_format.checksum
    monkeypatch.setattr(cache_format, "checksum", lambda *parts: sums.append(1) or real(*parts))
    assert damage_of(cache.folder, SAMPLED) == ""
    assert len(sums) in (SAMPLED - 1, SAMPLED), "what is drawn may be the first or the last"
    flip(cache.folder / "pixels", 17 * 23 * 3 * 5)
    assert "images 5 to 5 are not what was decoded" in damage_of(cache.folder)
    assert any(damage_of(cache.folder, SAMPLED) for _ in range(1000))


def test_verify_reads_all_caches_of_a_data_set_and_removes_the_damaged(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for size in (32, 16):
        open_images(cache_of(root, size))
    assert cli.run(download.main, [f"folder:{root}", "--verify"]) == 0
    assert "2 caches of decoded images, 0 of them damaged" in capsys.readouterr().out
    flip(cache_of(root, 16).folder / "pixels", 500)
    flip(cache_of(root, 32).folder / "pixels", 500)
    assert cli.run(download.main, [f"folder:{root}", "--verify"]) == 0
    assert "2 caches of decoded images, 2 of them damaged: these are removed" in capsys.readouterr().out
    assert not list(cache_of(root).place.glob("*/pixels"))


# -- whose cache it is --------------------------------------------------------------------------------------------


def test_a_cache_is_found_by_what_is_in_it(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = cache_of(root)
    assert cache.place == tmp_path / ".dgbench-cache"
    ensure_built(cache)
    decodings = counted(monkeypatch)
    moved = folder(path=Path(shutil.copytree(root, tmp_path / "elsewhere" / "renamed")), image_size=32)
    moved.cache_dir = cache.place
    ensure_built(moved.image_cache())
    assert moved.image_cache().folder == cache.folder
    assert not decodings
    assert cache_of(root, 33).folder != cache.folder
    write_image(root / "art" / "cat" / "new.jpg", seed=99)
    assert cache_of(root).folder != cache.folder


def test_caches_of_two_interpolations_share_no_pixels(mixed: Path) -> None:
    by_bilinear, by_bicubic = folder(path=mixed, image_size=32), folder(path=mixed, image_size=32)
    by_bicubic.interpolation = "bicubic"
    caches = by_bilinear.image_cache(), by_bicubic.image_cache()
    assert caches[0].folder != caches[1].folder
    assert [open_images(cache).index.interpolation for cache in caches] == ["bilinear", "bicubic"]
    for domain in DOMAINS:
        files, other = by_bicubic.examples(domain, 0), by_bilinear.examples(domain, 0)
        assert isinstance(files, ImageExamples)
        assert isinstance(other, ImageExamples)
        assert np.array_equal(everything(files.cached()), everything(files))
        for seed in (None, 1):
            assert difference(everything(files, seed), everything(other, seed)) > 0.5
            assert not np.array_equal(everything(files.cached(), seed), everything(other.cached(), seed))


@pytest.mark.parametrize("place", ["root", "mixed"])
def test_bicubic_draws_are_applied_to_cached_images_as_to_files(place: str, request: pytest.FixtureRequest) -> None:
    dataset = folder(path=request.getfixturevalue(place), image_size=32)
    dataset.interpolation = "bicubic"
    for domain in DOMAINS:
        files = dataset.examples(domain, 0)
        assert isinstance(files, ImageExamples)
        for seed in range(5):
            assert difference(everything(files.cached(), seed), everything(files, seed)) < 5, "but for resolution"


def test_the_order_of_domains_and_classes_is_part_of_it(root: Path) -> None:
    def cache(domains: Sequence[str], classes: Sequence[str]) -> ImageCache:
        class Named(ImageDataset):
            card = DatasetCard(
                source="", licence="", input_shape=(3, 32, 32), domains=domains, classes=classes, folder="own"
            )

        return Named(data_dir=root.parent).image_cache()

    orders = ((DOMAINS, CLASSES), (DOMAINS, CLASSES[::-1]), (DOMAINS[::-1], CLASSES))
    assert len({cache(*order).folder for order in orders}) == 3
    assert cache(*orders[0]).folder != cache_of(root).folder  # in which own images are laid on white


def test_that_of_a_table_lies_beside_it(root: Path, tmp_path: Path) -> None:
    rows = [(str(path), path.parts[-3], path.parts[-2]) for path in root.rglob("*.jpg")]
    dataset = csv(path=write_csv(tmp_path / "tables" / "1.csv", rows), image_size=32)
    assert dataset.image_cache().place == tmp_path / "tables" / ".dgbench-cache"
    examples = dataset.examples("photo", 0)
    assert difference(everything(examples.cached()), everything(examples)) < 1


def test_the_user_names_the_folder(root: Path, tmp_path: Path) -> None:
    catalogue, paths = Catalogue(), {"folder:own": str(root)}
    here = open_dataset("folder:own", Site(paths=paths), catalogue)
    there = open_dataset("folder:own", Site(paths=paths, cache_dir=str(tmp_path / "there")), catalogue)
    assert isinstance(here, ImageDataset)
    assert isinstance(there, ImageDataset)
    assert here.image_cache().place == tmp_path / ".dgbench-cache"
    build_cache(there)
    assert sorted(os.listdir(tmp_path)) == ["own", "there"]


def test_flags_say_where_and_whether(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = Parser()
    add_options(parser, {"all": tuple(OPTIONS.values())})
    monkeypatch.chdir(tmp_path)
    args = parser.parse_args(["--cache", "off", "--cache_dir", "new/c"])
    assert asked_of(vars(args))["setting"] == {"cache": "off"}
    assert site_of(vars(args)).cache_dir == str(tmp_path / "new" / "c")
    assert site_of(vars(parser.parse_args([]))).cache_dir == ""
    assert "setting" not in asked_of(vars(parser.parse_args([])))
    assert not (tmp_path / "new").exists()


def test_other_data_sets_have_none(catalogue: Catalogue, tmp_path: Path) -> None:
    dataset = open_dataset("RotatedDigits", Site(cache_dir=str(tmp_path / "c")), catalogue)
    build_cache(dataset)
    assert isinstance(dataset.examples("0", 0), ArrayExamples)
    assert not (tmp_path / "c").exists()


# -- building -----------------------------------------------------------------------------------------------------


def test_it_is_built_once_and_told(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    decodings = counted(monkeypatch)
    for _ in range(3):
        ensure_built(cache_of(root))
    assert len(decodings) == 12
    said = capsys.readouterr()
    assert said.out == ""
    first, end, last = said.err.splitlines()
    assert first == f"folder:own: decoding 12 of 12 images, once, into {cache_of(root).folder}"
    assert end == "folder:own: 12 of 12 images decoded"
    assert last.startswith("folder:own: decoded 12 images in 0:0")


def test_a_terminal_shows_a_bar(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    ensure_built(cache_of(root))
    assert "100%" in capsys.readouterr().err


@pytest.mark.usefixtures("small_blocks")
def test_elsewhere_a_line_says_now_and_then_how_many_are_decoded(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0)
    ensure_built(cache_of(root))
    counts = [line.partition(",")[0] for line in capsys.readouterr().err.splitlines()[1:-1]]
    assert counts == [f"folder:own: {done} of 12 images decoded" for done in (0, 5, 10, 12)]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("limit", "torn"), [(10**9, b"torn"), (0, b"torn"), (0, bytes(10**4))])
def test_what_was_interrupted_goes_on(mixed: Path, monkeypatch: pytest.MonkeyPatch, limit: int, torn: bytes) -> None:
    monkeypatch.setattr(cache_build, "LARGEST", limit)
    ensure_built(cache_of(mixed))
    whole = content(cache_of(mixed))
    shutil.rmtree(cache_of(mixed).place)

    append = cache_build._Files.append

    def interrupted(self: Any, entries: Any) -> None:
        if self.count == 5:
            cache_build._write(self._pixels, self.size, b"torn" * 10**6)
            cache_build._write(self._sizes, 60, torn)
            raise KeyboardInterrupt
        append(self, entries)

    monkeypatch.setattr(cache_build._Files, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensure_built(cache_of(mixed))
    assert CacheIndex.read(cache_of(mixed).folder) is None
    monkeypatch.setattr(cache_build._Files, "append", append)
    decodings = counted(monkeypatch)
    ensure_built(cache_of(mixed))
    assert len(decodings) == 7
    assert content(cache_of(mixed)) == whole


@pytest.mark.usefixtures("small_blocks")
def test_sizes_without_their_pixels_are_not_believed(root: Path) -> None:
    ensure_built(cache_of(root))
    whole = content(cache_of(root))
    (cache_of(root).folder / "index.json").unlink()
    os.truncate(cache_of(root).folder / "pixels", 17 * 23 * 3 * 4)
    ensure_built(cache_of(root))
    assert content(cache_of(root)) == whole


KILLED = """
import os, signal, sys
from pathlib import Path
from dgbench.data import cache_build
from dgbench.data.cache import ensure_built
from dgbench.datasets.folder import folder
cache_build.BLOCK = 2
append = cache_build._Files.append
def dying(self, entries):
    append(self, entries)
    if self.count == 6:
        os.kill(os.getpid(), signal.SIGKILL)
cache_build._Files.append = dying
ensure_built(folder(path=Path(sys.argv[1]), image_size=32).image_cache())
"""
RACER = """
import os, sys
from pathlib import Path
from dgbench.data import cache_build
from dgbench.data.cache import open_images
from dgbench.data.decoding import Decoding
from dgbench.datasets.folder import folder
cache_build.BLOCK, cache_build._WAIT = 2, 0.02
decode = Decoding.__call__
Decoding.__call__ = lambda self, path: os.write(1, f"decoded {path.name}\\n".encode()) and decode(self, path)
sys.stdin.readline()
images = open_images(folder(path=Path(sys.argv[1]), image_size=32).image_cache())
print("bytes", int(images.pixels.sum()))
"""


def test_a_killed_builder_is_succeeded_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(root)], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    monkeypatch.setattr(cache_build, "BLOCK", 2)
    decodings = counted(monkeypatch)
    images = open_images(cache_of(root))
    assert len(decodings) == 6
    assert np.array_equal(images[11], np.asarray(Decoding()(cache_of(root).paths()[-1])))


def test_several_processes_build_it_once(root: Path) -> None:
    command = [sys.executable, "-c", RACER, str(root)]
    racers = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [racer.communicate(timeout=60)[0].splitlines() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    assert sum(line.startswith("decoded") for lines in said for line in lines) == 12
    assert len({lines[-1] for lines in said}) == 1


def test_who_finds_a_builder_at_work_waits_and_says_so(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    cache = cache_of(root)
    cache.folder.mkdir(parents=True)
    lease = claim(cache.folder, None, cache.folder / "cancel")
    assert lease
    monkeypatch.setattr(cache_build, "_WAIT", 0.02)
    timer = threading.Timer(0.2, lease.release)
    timer.start()
    ensure_built(cache)
    timer.join()
    assert f"waiting for another process that decodes its images into {cache.folder}" in capsys.readouterr().err


@pytest.mark.usefixtures("small_blocks")
def test_a_builder_that_is_asked_to_stop_leaves_and_can_go_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append = cache_build._Files.append
    monkeypatch.setattr(
        cache_build._Files, "append", lambda *args: append(*args) or os.kill(os.getpid(), signal.SIGTERM)
    )
    with pytest.raises(Stopped):
        ensure_built(cache_of(root))
    monkeypatch.setattr(cache_build._Files, "append", append)
    decodings = counted(monkeypatch)
    ensure_built(cache_of(root))
    assert len(decodings) == 7


@pytest.mark.usefixtures("small_blocks")
def test_a_builder_that_lost_its_lease_writes_nothing_more(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, appended = cache_of(root), []
    append = cache_build._Files.append

    def overtaken(self: Any, entries: Any) -> None:
        appended.append(len(entries))
        append(self, entries)
        if len(appended) == 1:
            (cache.folder / "lease-0002").write_bytes(b"")
            (cache.folder / "lease-0002.released").touch()

    monkeypatch.setattr(cache_build._Files, "append", overtaken)
    ensure_built(cache)
    assert appended == [5, 5, 2], "by the first attempt one block, by its successor the others"
    assert (cache.folder / "lease-0003").exists()


@pytest.mark.usefixtures("small_blocks")
def test_all_bad_images_are_named_and_nothing_is_left(root: Path) -> None:
    truncate(root / "photo" / "dog" / "0003.jpg")
    (root / "sketch" / "dog" / "0001.jpg").write_text("<html>")
    problems = refused(cache_of(root))
    assert [problem.partition(" can't be decoded")[0] for problem in problems] == [
        f"image {root}/photo/dog/0003.jpg",
        f"image {root}/sketch/dog/0001.jpg",
    ]
    assert all("--skip_bad_images" in problem for problem in problems)
    assert (cache_of(root).folder / "pixels").stat().st_size == 0
    dataset = folder(path=root, skip_bad_images=True)
    assert len(open_images(dataset.image_cache()).sizes) == 10


def test_many_bad_images_are_not_all_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_build, "_SHOWN", 2)
    for path in root.rglob("*.jpg"):
        truncate(path)
    assert refused(cache_of(root))[2] == "and 10 more"


def test_a_folder_that_cannot_be_made_is_told(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    dataset = folder(path=root)
    dataset.cache_dir = tmp_path / "file" / "cache"
    (problem,) = refused(dataset.image_cache())
    assert problem.startswith(f"{tmp_path}/file/cache can't be written to (Not a directory), ")
    assert problem.endswith("--cache_dir, or have them decoded in every step with --cache off")


def test_a_disk_without_room_is_told_before_anything_is_decoded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decodings = counted(monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 14_000))
    (problem,) = refused(cache_of(root))
    assert problem.startswith(f"{cache_of(root).place} has 0.0 GB free and needs 0.0 GB, and the decoded images of ")
    assert "--cache_dir" in problem
    assert not decodings


def test_a_disk_that_fills_up_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        (problem,) = refused(cache_of(root))
    assert problem.startswith(f"the disk of {cache_of(root).place} is full, ")
    ensure_built(cache_of(root))


def test_a_finished_cache_is_only_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_built(cache_of(root))
    monkeypatch.setattr(cache_build, "build", None)
    before = sorted(cache_of(root).folder.iterdir())
    open_images(cache_of(root))
    assert sorted(cache_of(root).folder.iterdir()) == before


def test_the_index_is_for_people_too(root: Path) -> None:
    ensure_built(cache_of(root))
    index = json.loads((cache_of(root).folder / "index.json").read_text())
    assert index["name"] == "folder:own"
    assert index["count"] == 12


# -- runs ---------------------------------------------------------------------------------------------------------

TINY = {"steps": 6, "checkpoint_freq": 2, "image_size": 16, "pretrained": False}


def asked(root: Path, **setting: Any) -> dict[str, Any]:
    """A sweep of one run; there are 6 images a domain."""
    return {
        "datasets": [f"folder:{root}"],
        "test_envs": ["sketch"],
        "hparams": {"batch_size": 2},
        "setting": {**TINY, **setting},
    }


def test_runs_use_the_cache_unless_told_not_to(root: Path, tmp_path: Path) -> None:
    write_folders(root, dict.fromkeys(DOMAINS, 6), CLASSES)
    off = execute_all(sweep_of(tmp_path / "off", "ERM", **asked(root, cache="off")))
    assert not (tmp_path / ".dgbench-cache").exists()
    auto = execute_all(sweep_of(tmp_path / "auto", "ERM", **asked(root)))
    assert (tmp_path / ".dgbench-cache").is_dir()
    records = [records_of(sweep.store.folder(sweep.plan.runs[0].id)) for sweep in (off, auto)]
    assert [record["step"] for record in records[0]] == [record["step"] for record in records[1]]
    losses = [[view["loss"] for record in found for view in record["views"].values()] for found in records]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("cache", ["auto", "off"])
def test_runs_see_images_as_their_backbones_weights_were_made_with(mixed: Path, tmp_path: Path, cache: str) -> None:
    pixels = {}
    for name, backbone in {"tv_in1k": "bilinear", "a1_in1k": "bicubic"}.items():
        how = {"cache": cache, "backbone": f"resnet18.{name}", "image_size": 32, "holdout_fraction": 0.5}
        sweep = sweep_of(tmp_path / name, "ERM", **asked(mixed, **how))
        (run,) = sweep.plan.runs
        assert run.setting.interpolation == backbone
        sweep.store.folder(run.id).create(run)
        data = open_context(run, sweep.store, sweep.site, sweep.catalogue).data
        (view,) = run.fold.test[:1]
        pixels[backbone] = data.inputs(view, np.arange(2)).numpy()
        filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
        examples = data.examples["sketch"]
        assert isinstance(examples, ImageExamples)
        expected = [
            np.asarray(Decoding()(mixed / path).resize((32, 32), filters[backbone])).transpose(2, 0, 1)
            for path in np.array(examples.files)[data.indices[view][:2]]
        ]
        assert np.array_equal(pixels[backbone], np.stack(expected))
    assert not np.array_equal(*pixels.values())


def test_a_resumed_run_repeats_an_uninterrupted_one(root: Path, tmp_path: Path) -> None:
    write_folders(root, dict.fromkeys(DOMAINS, 6), CLASSES)
    whole = execute_all(sweep_of(tmp_path / "whole", "ERM", **asked(root)))
    parts = sweep_of(tmp_path / "parts", "ERM", **asked(root))
    (run,) = parts.plan.runs
    assert train(training_of(parts, run), stop_after=3)
    assert execute(parts, run) == 0
    assert records_of(parts.store.folder(run.id)) == records_of(whole.store.folder(run.id))


def test_a_bad_image_is_the_runs_failure(root: Path, tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path / "sweep", "ERM", **asked(root, holdout_fraction=0.25))
    truncate(root / "sketch" / "cat" / "0002.jpg")
    (run,) = sweep.plan.runs
    assert execute(sweep, run) == 1
    (failure,) = sweep.store.folder(run.id).failures()
    assert "sketch/cat/0002.jpg can't be decoded" in failure["error"]
