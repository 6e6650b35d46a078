"""edgeseg.training: losses, schedule, parameter groups, averages, checkpoints."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from edgeseg import files
from edgeseg.checkpoints.file import load_checkpoint, save_checkpoint
from edgeseg.errors import BuildError, DataError
from edgeseg.models import build_model
from edgeseg.models.layers import DropPath
from edgeseg.recipe.schema import Train
from edgeseg.training.losses import CrossEntropy
from edgeseg.training.optim import Ema, lr_factor, parameter_groups


def logits_and_mask() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 4, (2, 8, 8), generator=generator).to(torch.uint8)
    mask[0, :3] = 255
    return torch.randn(2, 4, 8, 8, generator=generator), mask


def test_cross_entropy_is_torchs_mean_over_labelled_pixels() -> None:
    logits, mask = logits_and_mask()
    loss = CrossEntropy(255)
    mean = loss.total(logits, mask) / loss.count(mask)
    assert mean.item() == pytest.approx(
        F.cross_entropy(logits, mask.long(), ignore_index=255).item(), rel=1e-6
    )


def test_sums_over_parts_are_the_whole() -> None:
    logits, mask = logits_and_mask()
    loss = CrossEntropy(255, class_weights=torch.tensor([1.0, 2.0, 0.5, 3.0]))
    parts = sum(loss.total(logits[i : i + 1], mask[i : i + 1]) for i in range(2))
    assert float(parts) == pytest.approx(float(loss.total(logits, mask)), rel=1e-6)


def test_ohem_keeps_the_hardest_pixels() -> None:
    logits, mask = logits_and_mask()
    loss = CrossEntropy(255, ohem_keep=0.25)
    each = F.cross_entropy(logits, mask.long(), ignore_index=255, reduction="none")[mask != 255]
    assert loss.count(mask) == math.ceil(0.25 * each.numel())
    hardest = each.sort(descending=True).values[: loss.count(mask)].sum()
    assert float(loss.total(logits, mask)) == pytest.approx(float(hardest), rel=1e-6)


def test_an_unlabelled_batch_gives_zero_and_finite_gradients() -> None:
    logits = torch.randn(1, 4, 2, 2, requires_grad=True)
    mask = torch.full((1, 8, 8), 255, dtype=torch.uint8)
    total = CrossEntropy(255).total(logits, mask)
    total.backward()
    assert total.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_schedule_warms_up_and_decays_to_zero() -> None:
    train = Train(steps=100, batch_size=1, warmup_steps=10)
    factors = [lr_factor(step, train) for step in range(100)]
    assert factors[0] == pytest.approx(0.1, rel=1e-4)
    assert factors == pytest.approx([min(1.0, (s + 1) / 10) * (1 - s / 100) for s in range(100)], rel=1e-3)
    assert max(factors) == factors[9]
    assert factors[-1] == pytest.approx(0.01)


def test_parameter_groups_follow_upstream() -> None:
    model = build_model("edaformer_nano", 3)
    groups = {g["label"]: g for g in parameter_groups(model, Train(steps=2000, batch_size=1))}
    assert sum(len(g["params"]) for g in groups.values()) == len(list(model.parameters()))
    assert all(name.startswith("decoder.") for name in groups["decoder"]["names"])
    assert groups["decoder"]["lr"] == pytest.approx(10 * groups["encoder"]["lr"])
    assert groups["encoder norms"]["weight_decay"] == 0.0
    assert groups["decoder"]["weight_decay"] == groups["encoder"]["weight_decay"] == 0.01
    norms = dict(model.named_parameters())
    assert all(norms[name].ndim == 1 for name in groups["encoder norms"]["names"])
    assert "encoder.stages.0.1.norm1.weight" in groups["encoder norms"]["names"]
    assert "encoder.stages.0.1.ffn.fc1.bias" in groups["encoder"]["names"]


def test_ema_follows_floats_and_copies_counters() -> None:
    model = build_model("edaformer_nano", 3)
    ema = Ema(model, 0.5)
    before = ema.state["decoder.classifier.bias"].clone()
    with torch.no_grad():
        model.decoder.classifier.bias.add_(1.0)
        model.decoder.fuse_norm.num_batches_tracked.add_(5)
    ema.update(model, step=1000)
    assert torch.allclose(ema.state["decoder.classifier.bias"], before + 0.5)
    assert int(ema.state["decoder.fuse_norm.num_batches_tracked"]) == 5


def test_drop_path_keeps_the_expectation_and_is_identity_in_eval() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25)
    x = torch.ones(20_000, 1, 1, 1)
    out = drop(x)
    assert out.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert float(out.mean()) == pytest.approx(1.0, abs=0.02)
    assert drop.eval()(x) is x


def test_checkpoints_come_back_bit_equal(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4), "n": torch.tensor(7)}
    save_checkpoint(tmp_path / "c.safetensors", tensors, {"kind": "weights", "x": [1, 2]})
    loaded = load_checkpoint(tmp_path / "c.safetensors")
    assert loaded.meta == {"kind": "weights", "x": [1, 2]}
    assert all(torch.equal(loaded.tensors[name], value) for name, value in tensors.items())
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(64, 64), "n": torch.tensor(7)}
    save_checkpoint(tmp_path / "full.safetensors", tensors, {})
    save_checkpoint(tmp_path / "half.safetensors", tensors, {}, half=True)
    loaded = load_checkpoint(tmp_path / "half.safetensors").tensors
    assert loaded["a"].dtype == torch.float32
    assert torch.equal(loaded["a"], tensors["a"].half().float())
    assert int(loaded["n"]) == 7
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (
        tmp_path / "full.safetensors"
    ).stat().st_size


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "text"])
def test_damaged_checkpoints_are_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"a": torch.randn(8, 8)}, {"kind": "weights"})
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-5] ^= 1
    path.write_bytes(
        {"flip": bytes(data), "truncate": bytes(data[:-40]), "empty": b"", "text": b"hello" * 40}[damage]
    )
    with pytest.raises(DataError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


def test_foreign_safetensors_points_to_the_importer(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "c.safetensors")
    with pytest.raises(DataError) as caught:
        load_checkpoint(tmp_path / "c.safetensors")
    assert "weights import" in caught.value.hint


def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"a": torch.zeros(4)}, {})
    before = path.read_bytes()

    def full(path: Path, data: bytes, *, durable: bool = False) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "replace_file", full)
    with pytest.raises(BuildError, match="No space left"):
        save_checkpoint(path, {"a": torch.ones(4)}, {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]
