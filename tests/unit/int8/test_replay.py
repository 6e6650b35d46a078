"""Replays are whole passes, to the bit; switches switch; the search for the fewest layers finds them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeseg.int8.replay import Replay
from edgeseg.int8.sensitivity import LayerSwitch, Mode, fewest


class Round(nn.Module):
    """A quantizer, as far as a switch knows them."""

    def __init__(self) -> None:
        super().__init__()
        self.is_enabled = True

    def enable(self) -> None:
        self.is_enabled = True

    def disable(self) -> None:
        self.is_enabled = False

    def forward(self, x: Tensor) -> Tensor:
        return (x * 4).round() / 4 if self.is_enabled else x


class Layer(nn.Linear):
    """A linear layer with quantizers."""

    def __init__(self, width: int = 6) -> None:
        super().__init__(width, width)
        self.input_quantizer, self.weight_quantizer = Round(), Round()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.input_quantizer(x), self.weight_quantizer(self.weight), self.bias)


class Block(nn.Module):
    """Two layers; writes into its own output's memory, and gives a pair, as blocks may."""

    runs = 0

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Layer(), Layer()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.runs += 1
        y = self.one(x).relu_()
        return y, self.two(y)


class Net(nn.Module):
    """Blocks in a row, a layer that runs twice, one that never does, and writes into what blocks return."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.shared, self.unused = Layer(), Layer()

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(x)
        for block in self.blocks:
            side, x = block(x)
            x += side
        return self.shared(x)


def net() -> tuple[Net, Tensor]:
    torch.manual_seed(3)
    return Net().eval(), torch.randn(2, 5, 6)


@pytest.mark.parametrize("mode", ["float-one", "quantize-one"])
def test_a_replay_is_a_whole_pass(mode: Mode) -> None:
    model, x = net()
    switch = LayerSwitch(model)
    assert len(switch.names) == 8
    with torch.no_grad(), switch.only(switch.base(mode)):
        whole = model(x)
        replay = Replay(model, x)
        assert torch.equal(replay.output, whole)
        for name in switch.names:
            if name == "unused":
                assert not replay.runs(switch.modules[name])
                continue
            with switch.flipped(name, mode):
                assert torch.equal(replay.replay(switch.modules[name]), model(x))
                assert not torch.equal(model(x), whole), name
        assert torch.equal(model(x), whole)


def test_blocks_before_the_change_do_not_run_again() -> None:
    model, x = net()
    replay = Replay(model, x)
    before = [block.runs for block in model.blocks]
    replay.replay(model.blocks[1].two)
    assert [block.runs - known for block, known in zip(model.blocks, before, strict=True)] == [0, 1, 1]
    replay.replay(model.shared)
    assert [block.runs - known for block, known in zip(model.blocks, before, strict=True)] == [1, 2, 2]


def test_a_layer_that_never_runs_cannot_be_replayed() -> None:
    model, x = net()
    with pytest.raises(ValueError, match="does not call"):
        Replay(model, x).replay(model.unused)


def test_a_failed_replay_leaves_the_model_whole() -> None:
    model, x = net()
    replay = Replay(model, x)
    handle = model.blocks[2].two.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        replay.replay(model.blocks[2].two)
    handle.remove()
    with torch.no_grad():
        assert torch.equal(model(x), replay.output)


def test_only_switches_and_switches_back() -> None:
    model, _ = net()
    model.unused.input_quantizer.disable()
    model.unused.weight_quantizer.disable()
    switch = LayerSwitch(model)
    assert "unused" not in switch.names
    with switch.only(["shared"]):
        assert [
            name for name, module in model.named_modules() if isinstance(module, Round) and module.is_enabled
        ] == [
            "shared.input_quantizer",
            "shared.weight_quantizer",
        ]
    assert LayerSwitch(model).names == switch.names
    with pytest.raises(ValueError, match="no INT8 layers: unused"), switch.only(["unused"]):
        pass


@settings(max_examples=200)
@given(st.integers(0, 40), st.integers(0, 41))
def test_the_fewest_layers_are_found(count: int, needed: int) -> None:
    ranked = [str(number) for number in range(count)]
    asked: list[int] = []

    def holds(beginning: list[str]) -> bool:
        assert beginning == ranked[: len(beginning)]
        asked.append(len(beginning))
        return len(beginning) >= needed

    found = fewest(ranked, holds)  # type: ignore[arg-type]  # a list is a sequence
    assert found == (None if needed > count else ranked[:needed])
    assert len(asked) == len(set(asked)) <= 2 * max(1, count).bit_length() + 2
