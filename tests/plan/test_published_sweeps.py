"""The sweeps of sweeps/, through the commands, on copies of their data that are whole but for the number of images."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dgbench.datasets.domain_net import DomainNet
from tests.examples.tiny_domainbed import TinyDomainNet, TinyPACS
from tests.support.layouts import write_clutter, write_image
from tests.support.places import EXAMPLES, SWEEPS

pytestmark = pytest.mark.slow

TINY = ("--include", str(EXAMPLES / "tiny_domainbed.py"))
SHORT = ("--n_trials", "1", "--steps", "3", "--checkpoint_freq", "2", "--device", "cpu", "--jobs", "2")
HPARAMS = ("--hparams", '{"batch_size": 4, "image_size": 16}')


def command(name: str, *words: str, code: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", f"dgbench.{name}", *words], capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def write(root: Path, card: Any, counts: Mapping[str, int]) -> None:
    """JPEGs of 12 x 10, dealt to all classes of the card."""
    for domain, n in counts.items():
        for i in range(n):
            write_image(root / domain / card.classes[i % len(card.classes)] / f"{i:04d}.jpg", seed=i, size=(12, 10))
    write_clutter(root)


def tables(root: Path) -> list[dict[str, Any]]:
    report = json.loads(command("collect", "--input_dir", str(root), "--format", "json"))
    found: list[dict[str, Any]] = report["tables"]
    assert found
    for table in found:
        assert table["signature"]["runs"].endswith(" counted, 0 missing, 0 failed")
    return found


def test_pacs(tmp_path: Path) -> None:
    write(tmp_path / "PACS", TinyPACS.card, TinyPACS.card.counts)
    words = ("--sweep", str(SWEEPS / "pacs.toml"), "--datasets", "TinyPACS", "--data_dir", str(tmp_path))
    root = tmp_path / "sweep"
    command("sweep", "launch", *words, *TINY, *SHORT, *HPARAMS, "--n_hparams", "2", "--test_envs", "sketch", "0",
            "--output_dir", str(root))  # fmt: skip
    found = {table["selector"]: table for table in tables(root) if table["dataset"]}
    assert set(found) == {"training-domain", "oracle"}
    for table in found.values():
        assert table["columns"] == ["art_painting", "sketch", "Avg"]
        assert len(table["rows"]) == 12


def test_pacs_with_the_pairs_that_leave_one_domain_out_reads(tmp_path: Path) -> None:
    write(tmp_path / "PACS", TinyPACS.card, TinyPACS.card.counts)
    words = ("--algorithms", "ERM", "ERM+SWAD", "--datasets", "TinyPACS", "--data_dir", str(tmp_path), *TINY)
    root = tmp_path / "sweep"
    command("sweep", "launch", *words, *SHORT, *HPARAMS, "--n_hparams", "1", "--output_dir", str(root))
    found = [table for table in tables(root) if table["selector"] == "leave-one-domain-out"]
    assert found[0]["columns"] == [*TinyPACS.card.domains, "Avg"]
    assert found[0]["signature"]["runs"].startswith("10 counted")


def test_domain_net(tmp_path: Path) -> None:
    card, place = TinyDomainNet.card, tmp_path / "domain_net"
    write(place, DomainNet.card, {domain: card.counts[domain] + card.duplicates[domain] for domain in card.domains})
    root = tmp_path / "sweep"
    where = ("--data_dir", str(tmp_path), *TINY)
    words = ("--sweep", str(SWEEPS / "domainnet.toml"), "--datasets", "TinyDomainNet", *where, *SHORT)
    launch = ("sweep", "launch", *words, *HPARAMS, "--n_hparams", "2", "--test_envs", "clipart",
              "--output_dir", str(root))  # fmt: skip
    assert "that is TinyDomainNet with the 7 duplicates that DomainBed removes" in command(*launch, code=2)
    last = {domain: range(card.counts[domain], card.counts[domain] + n) for domain, n in card.duplicates.items()}
    names = [f"{domain}/{card.classes[i % 345]}/{i:04d}.jpg" for domain, numbers in last.items() for i in numbers]
    (tmp_path / "domain_net_duplicates.txt").write_text("\n".join(names))
    listed = str(tmp_path / "domain_net_duplicates.txt")
    assert "deleted 7 of the 7 files" in command("download", "TinyDomainNet", *where, "--remove_duplicates", listed)
    command(*launch)
    found = {table["selector"]: table for table in tables(root) if table["dataset"]}
    assert set(found) == {"training-domain", "oracle"}
    assert found["oracle"]["columns"] == ["clipart", "Avg"]
    assert [row["row"] for row in found["oracle"]["rows"]][-2:] == ["ERM+DiWA", "SAM+SWAD"]
