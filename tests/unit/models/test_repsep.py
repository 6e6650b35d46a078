"""Representation separation: each part does what its definition says, and its losses stay in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor, nn

from edgeseg.export.graph.cleanup import with_logits
from edgeseg.export.program import export_program
from edgeseg.metrics import over_smoothness
from edgeseg.models.eft import Eft
from edgeseg.models.region_losses import RegionLosses
from edgeseg.models.repsep import (
    DiscriminativeCrossAttention,
    LocalPath,
    RepSepDecoder,
    SpatiallyAdaptiveSeparation,
    local_mean,
    similar_mean,
)
from edgeseg.models.segmentor import Segmentor
from edgeseg.specs import LabelSpace
from golden_rule import fill

CHANNELS = (8, 16, 24, 32)
NUM_CLASSES = 5
OFF = {"local_path": "none", "sasm": "none", "dca": False}
VARIANTS = [
    OFF,
    {},
    {"local_path": "full", "sasm": "attention"},
    {"local_path": "none"},
    {"local_path": "light", "sasm": "none", "dca": False, "upsample": "lda_aqu"},
]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def decoder(**options: object) -> RepSepDecoder:
    return RepSepDecoder(CHANNELS, NUM_CLASSES, 16, local_width=8, **{"dropout": 0.0, **options})  # type: ignore[arg-type]


def model(**options: object) -> Segmentor:
    return Segmentor(Eft(CHANNELS, (1, 1, 1, 1), 8, 2.0, drop_path=0.0), decoder(**options))


def feats(batch: int = 1, size: int = 64) -> list[Tensor]:
    return [
        noise(batch, c, size // s, size // s, seed=s) for c, s in zip(CHANNELS, (4, 8, 16, 32), strict=True)
    ]


def gate(module: SpatiallyAdaptiveSeparation, strength: float) -> None:
    """Fix gamma at `strength`, exactly at 0."""
    with torch.no_grad():
        share = torch.tensor(strength / module.max_strength, dtype=torch.float64)
        module.gate.weight.zero_()
        module.gate.bias.fill_(float(share.logit().clamp(-1e4, 40.0)))


class TestLocalPath:
    @pytest.mark.parametrize("light, parameters", [(False, 76_224), (True, 11_840)])
    def test_size(self, light: bool, parameters: int) -> None:
        assert sum(p.numel() for p in LocalPath(32, 64, light=light).parameters()) == parameters

    def test_a_flat_region_is_passed_down_and_a_detail_enhanced(self) -> None:
        path = fill(LocalPath(4, 8, light=True)).double().eval()
        nn.init.constant_(path.enhancement, 0.5)
        plain = fill(LocalPath(4, 8, light=True)).double().eval()
        nn.init.zeros_(plain.enhancement)
        x = noise(1, 4, 16, 16)
        base = plain(x)
        assert torch.allclose(path(x), base + 0.5 * (base - local_mean(base, 7)))

    def test_deep_stages_get_no_gradient_from_it(self) -> None:
        segmentor = model()
        assert segmentor.decoder.local_path is not None
        maps = segmentor.encoder(torch.randn(1, 3, 64, 64))
        segmentor.decoder.local_path(maps[0]).sum().backward()
        touched = {
            name.split(".")[1] for name, p in segmentor.encoder.named_parameters() if p.grad is not None
        }
        assert touched == {"0"}


class TestSeparation:
    @pytest.mark.parametrize("kind", ["uniform", "attention"])
    def test_constant_maps_do_not_change(self, kind: str) -> None:
        module = fill(SpatiallyAdaptiveSeparation(6, 2, kind)).double()
        x = noise(2, 6, 1, 1).expand(2, 6, 9, 7)
        assert torch.allclose(module(x, noise(2, 2, 9, 7)), x, atol=1e-12)

    @pytest.mark.parametrize("kind", ["uniform", "attention"])
    def test_the_deviation_from_the_mean_grows_by_one_and_gamma(self, kind: str) -> None:
        module = SpatiallyAdaptiveSeparation(6, 0, kind).double()
        gate(module, 1.5)
        x = noise(1, 6, 9, 7)
        mean = local_mean(x, 5) if kind == "uniform" else similar_mean(x, 3, module.temperature)
        assert torch.allclose(module(x) - mean, 2.5 * (x - mean))

    def test_strength_lies_between_zero_and_two_and_follows_the_guide(self) -> None:
        module = SpatiallyAdaptiveSeparation(1, 1, "uniform").double()
        with torch.no_grad():
            module.gate.weight.copy_(torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1))
            module.gate.bias.zero_()
        x = noise(1, 1, 12, 12)
        guide = torch.full_like(x, -50.0)
        guide[..., 6:] = 50.0
        strength = (module(x, guide) - x) / (x - local_mean(x, 5))
        assert torch.allclose(strength[..., :6], torch.zeros(1, dtype=x.dtype), atol=1e-9)
        assert torch.allclose(strength[..., 6:], torch.full((1,), 2.0, dtype=x.dtype))

    @pytest.mark.parametrize("kind", ["uniform", "attention"])
    def test_away_from_borders_it_moves_with_its_input(self, kind: str) -> None:
        module = fill(SpatiallyAdaptiveSeparation(6, 0, kind)).double()
        x = noise(1, 6, 16, 16)
        moved = module(x.roll((3, 2), (2, 3)))
        assert torch.allclose(moved[..., 5:-2, 4:-2], module(x)[..., 2:-5, 2:-4])

    @settings(max_examples=10)
    @given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
    def test_similar_mean_is_the_weighted_mean_by_hand(self, height: int, width: int, seed: int) -> None:
        x, temperature = noise(1, 3, height, width, seed=seed), 0.2
        result = similar_mean(x, 3, temperature)
        for i in range(height):
            for j in range(width):
                window = [
                    x[0, :, min(max(i + di, 0), height - 1), min(max(j + dj, 0), width - 1)]
                    for di in (-1, 0, 1)
                    for dj in (-1, 0, 1)
                ]
                unit = [v / (v @ v + 1e-6) ** 0.5 for v in window]
                cosine = torch.stack([unit[4] @ other for other in unit])
                expected = ((cosine / temperature).softmax(0)[:, None] * torch.stack(window)).sum(0)
                assert torch.allclose(result[0, :, i, j], expected)

    def test_it_lowers_the_mean_cosine_of_features_that_share_a_direction(self) -> None:
        """x = m + e, |m|^2 = 3.35 |e|^2, e white: a mean m that all share, as over-smooth features do."""
        channels, share = 64, 3.35
        x = noise(1, channels, 64, 64) + share**0.5 * noise(1, channels, 1, 1, seed=1).sign()
        module = SpatiallyAdaptiveSeparation(channels, 0, "uniform").double()
        measured = []
        for gamma in (0.0, 0.5, 1.0, 2.0):
            gate(module, gamma)
            with torch.no_grad():
                measured.append(over_smoothness(module(x)[0].numpy()).overall)
        assert measured == pytest.approx([0.770, 0.604, 0.463, 0.278], abs=0.005)


class TestCrossAttention:
    def test_it_is_its_definition(self) -> None:
        dca = fill(DiscriminativeCrossAttention(6, 4)).double()
        x = noise(2, 6, 3, 5)
        refined, scores, regions = dca(x)
        pixels = x.flatten(2).transpose(1, 2)  # (B, N, C)
        by_hand = dca.query(dca.queries) @ dca.key(pixels).transpose(1, 2) / 6**0.5  # (B, K, N)
        assert torch.allclose(scores.flatten(2), by_hand)
        assert torch.allclose(regions, by_hand.softmax(2) @ dca.value(pixels))
        handed_back = dca.out(by_hand.softmax(1).transpose(1, 2) @ regions)  # (B, N, C)
        assert torch.allclose(refined, x + handed_back.transpose(1, 2).reshape(x.shape))

    @pytest.mark.parametrize("num_classes, parameters", [(19, 68_480), (150, 85_248)])
    def test_size(self, num_classes: int, parameters: int) -> None:
        assert (
            sum(p.numel() for p in DiscriminativeCrossAttention(128, num_classes).parameters()) == parameters
        )


class TestLosses:
    K, C = 4, 6

    def figures(self, *inputs: Tensor, **weights: float) -> dict[str, float]:
        with torch.no_grad():
            return {name: float(value) for name, value in self.losses(**weights)(*inputs, 255).items()}

    def losses(self, **weights: float) -> RegionLosses:
        given_weights = {"mask_weight": 1.0, "region_weight": 1.0, "separation_weight": 1.0, **weights}
        return fill(RegionLosses(self.C, self.K, **given_weights))

    def inputs(self, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
        mask = torch.randint(0, 3, (batch, 16, 24), generator=torch.Generator().manual_seed(3)).to(
            torch.uint8
        )
        mask[0, :8] = 255
        mask[0, 8:] = 1
        return noise(batch, self.K, 4, 6).float(), noise(batch, self.K, self.C).float(), mask

    def test_the_terms_by_hand(self) -> None:
        scores, regions, mask = self.inputs()
        classifier = self.losses().requires_grad_(False).classifier
        assert classifier is not None
        terms = []
        for s, r, label in zip(scores, regions, mask[:, 2::4, 2::4].long(), strict=True):
            present = [k for k in range(self.K) if (label == k).any()]
            cosines = [
                float(F.cosine_similarity(r[a], r[b], dim=0)) for a in present for b in present if a < b
            ]
            terms.append(
                (
                    float(F.cross_entropy(s[None], label[None], ignore_index=255)),
                    float(F.cross_entropy(classifier(r[present]), torch.tensor(present))),
                    float(np.mean([max(0.0, c) for c in cosines])) if cosines else 0.0,
                )
            )
        weights = (0.4, 0.1, 0.05)
        names = ("mask", "region", "separation")
        figures = self.figures(
            scores, regions, mask, **{f"{n}_weight": w for n, w in zip(names, weights, strict=True)}
        )
        expected = np.mean(terms, axis=0) * weights
        assert figures == pytest.approx(
            {f"loss_{n}": e for n, e in zip(names, expected, strict=True)}, rel=1e-5
        )

    def test_absent_classes_do_not_count(self) -> None:
        scores, regions, mask = self.inputs()
        before = self.figures(scores, regions, mask)
        regions[:, 3] = 100.0 * noise(self.C, seed=9).float()  # class 3 is in no image
        regions[0, [0, 2]] = 0.0  # image 0 holds class 1 alone
        assert self.figures(scores, regions, mask) == before
        regions[1, 0] = regions[1, 1]
        after = self.figures(scores, regions, mask)
        assert [name for name in before if after[name] != before[name]] == ["loss_region", "loss_separation"]

    def test_parts_of_a_batch_average_to_the_whole(self) -> None:
        inputs = self.inputs(4)
        whole = self.figures(*inputs)
        halves = [self.figures(*(tensor[part] for tensor in inputs)) for part in (slice(0, 2), slice(2, 4))]
        assert whole == pytest.approx(
            {name: (halves[0][name] + halves[1][name]) / 2 for name in whole}, rel=1e-6
        )

    @pytest.mark.parametrize("ignore_index", [255, 200])
    def test_a_batch_without_labels_gives_zero_and_finite_gradients(self, ignore_index: int) -> None:
        module = self.losses()
        scores, regions, mask = self.inputs()
        scores.requires_grad_()
        regions.requires_grad_()
        losses = module(scores, regions, torch.full_like(mask, ignore_index), ignore_index)
        assert [value.item() for value in losses.values()] == [0.0, 0.0, 0.0]
        torch.stack(list(losses.values())).sum().backward()
        for tensor in (scores, regions, *module.parameters()):
            assert tensor.grad is not None and not tensor.grad.any()

    def test_a_weight_of_zero_leaves_term_and_classifier_out(self) -> None:
        module = self.losses(region_weight=0.0)
        assert set(module(*self.inputs(), 255)) == {"loss_mask", "loss_separation"}
        assert list(module.parameters()) == []
        with pytest.raises(ValueError, match="negative"):
            self.losses(mask_weight=-0.1)


class TestDecoder:
    @pytest.mark.parametrize("options", VARIANTS)
    def test_logits_at_stride_4_in_evaluation_and_training(self, options: dict[str, object]) -> None:
        segmentor = model(**options)
        image, mask = torch.randn(2, 3, 64, 96), torch.randint(0, NUM_CLASSES, (2, 64, 96))
        with torch.no_grad():
            assert segmentor.eval()(image, mask).shape == (2, NUM_CLASSES, 16, 24)
            assert segmentor.train()(image).shape == (2, NUM_CLASSES, 16, 24)
            logits, losses = segmentor(image, mask)
        assert logits.shape == (2, NUM_CLASSES, 16, 24)
        expected = {"loss_mask", "loss_region", "loss_separation"} if options.get("dca", True) else set()
        assert set(losses) == expected

    def test_closed_gate_and_fresh_regions_are_the_plain_decoder_exactly(self) -> None:
        full = fill(decoder(local_path="light")).double().eval()
        plain = decoder(local_path="light", sasm="none", dca=False).double().eval()
        state = full.state_dict()
        plain.load_state_dict({name: state[name] for name in plain.state_dict()})
        assert full.sasm is not None and full.dca is not None
        assert not torch.equal(full(feats()), plain(feats()))
        gate(full.sasm, 0.0)
        full.dca.reset()
        assert torch.equal(full(feats()), plain(feats()))

    def test_fresh_parts_start_as_documented(self) -> None:
        fresh = decoder()
        assert fresh.sasm is not None and fresh.dca is not None and fresh.local_path is not None
        assert not fresh.sasm.gate.weight.any() and fresh.sasm.gate.bias.tolist() == [-2.0]
        assert not fresh.dca.out.weight.any() and not fresh.dca.out.bias.any()
        assert torch.equal(fresh.local_path.enhancement, torch.ones(8))
        assert fresh.dca.query.weight.any()

    def test_training_and_evaluation_compute_the_same_logits(self) -> None:
        plain = fill(decoder()).eval()
        maps = [feat.float() for feat in feats()]
        logits, _ = plain.forward_train(maps, torch.zeros(1, 64, 64, dtype=torch.uint8), 255)
        assert torch.equal(logits, plain(maps))

    @pytest.mark.parametrize(
        "option, value, message",
        [
            ("local_path", "heavy", "local_path is 'heavy'"),
            ("sasm", "gaussian", "sasm is 'gaussian'"),
            ("mask_weight", -1.0, "negative"),
            ("upsample", "nearest", "upsample"),
        ],
    )
    def test_an_option_it_does_not_take_is_refused(self, option: str, value: object, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            decoder(**{option: value})


def training_scene() -> tuple[Tensor, Tensor]:
    """Two images whose colour tells the class of each quarter; a strip is not labelled."""
    labels = (
        torch.arange(4)
        .reshape(2, 2)
        .repeat_interleave(32, 0)
        .repeat_interleave(32, 1)
        .repeat(2, 1, 1)
        .to(torch.uint8)
    )
    labels[1] = labels[1].flip(0)
    colours = torch.randn(NUM_CLASSES, 3, generator=torch.Generator().manual_seed(1))
    image = colours[labels.long()].permute(0, 3, 1, 2).contiguous()
    labels[:, :8] = 255
    return image, labels


@pytest.mark.parametrize(
    "options", [{}, {"local_path": "full", "sasm": "attention"}, {"upsample": "lda_aqu"}]
)
def test_gradients_reach_every_parameter(options: dict[str, object]) -> None:
    segmentor = fill(model(**options)).train()  # fresh layers of zeros would hide what lies before them
    image, mask = training_scene()
    logits, losses = segmentor(image, mask)
    total = F.cross_entropy(F.interpolate(logits, size=(64, 64)), mask.long(), ignore_index=255) + sum(
        losses.values()
    )
    total.backward()
    assert [name for name, p in segmentor.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_twenty_steps_lower_every_loss() -> None:
    torch.manual_seed(0)
    segmentor = model().train()
    image, mask = training_scene()
    optimizer = torch.optim.AdamW(segmentor.parameters(), lr=1e-2)
    history = []
    for _ in range(20):
        logits, losses = segmentor(image, mask)
        losses["loss"] = F.cross_entropy(F.interpolate(logits, size=(64, 64)), mask.long(), ignore_index=255)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append({name: value.item() for name, value in losses.items()})
    assert {name: history[-1][name] < 0.9 * history[0][name] for name in history[0]} == dict.fromkeys(
        history[0], True
    )


def test_losses_are_computed_in_float32_under_bf16() -> None:
    torch.manual_seed(0)
    segmentor = model().train()
    image, mask = training_scene()
    _, expected = segmentor(image, mask)
    with torch.autocast("cpu", torch.bfloat16):
        _, losses = segmentor(image, mask)
    for name, value in losses.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected[name].item(), rel=0.03)


class TestExport:
    FORBIDDEN = frozenset(
        {
            "Loop",
            "If",
            "Scan",
            "Range",
            "NonZero",
            "Shape",
            "Gather",
            "GatherND",
            "GatherElements",
            "ScatterND",
        }
    )

    @staticmethod
    def export(segmentor: Segmentor, out: Path) -> onnx.ModelProto:
        image = segmentor.image_spec((64, 96))
        labels = LabelSpace(tuple("abcde"), tuple((i, i, i) for i in range(NUM_CLASSES)))
        export_program(segmentor, image=image, labels=labels, mask_stride=4, arch="repsep", out=out, opset=17)
        return onnx.load(out)

    @pytest.mark.parametrize("options", VARIANTS)
    def test_graph_is_clean_and_agrees(self, options: dict[str, object], tmp_path: Path) -> None:
        segmentor = fill(model(**options)).eval()
        graph = self.export(segmentor, tmp_path / "m.onnx")
        assert not {node.op_type for node in graph.graph.node} & self.FORBIDDEN
        session = ort.InferenceSession(
            with_logits(graph).SerializeToString(), providers=["CPUExecutionProvider"]
        )
        picture = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
        (logits,) = session.run(["logits"], {"image": picture})
        mean, std = (torch.tensor(v) for v in (segmentor.encoder.mean_rgb, segmentor.encoder.std_rgb))
        with torch.inference_mode():
            expected = segmentor(((torch.from_numpy(picture) - mean) / std).permute(0, 3, 1, 2))
        assert np.abs(logits - expected.numpy()).max() < 1e-4

    def test_training_only_parts_leave_no_trace(self, tmp_path: Path) -> None:
        trained = fill(model())
        silent = model(mask_weight=0.0, region_weight=0.0, separation_weight=0.0)
        own = {name: value for name, value in trained.state_dict().items() if "region_losses" not in name}
        assert set(trained.state_dict()) - set(own) == {
            f"decoder.region_losses.classifier.{p}" for p in ("weight", "bias")
        }
        silent.load_state_dict(own)
        graphs = [self.export(m, tmp_path / f"{i}.onnx").graph for i, m in enumerate((trained, silent))]
        assert [n.op_type for n in graphs[0].node] == [n.op_type for n in graphs[1].node]
        auxiliary = trained.decoder.region_losses.classifier.weight.detach().numpy()
        constants = [numpy_helper.to_array(tensor) for tensor in graphs[0].initializer]
        assert not any(
            np.array_equal(np.sort(c, axis=None), np.sort(auxiliary, axis=None)) for c in constants
        )

    def test_torch_export_takes_it(self) -> None:
        segmentor = fill(model(sasm="attention")).eval()
        image = torch.randn(1, 3, 64, 64)
        program = torch.export.export(segmentor, (image,))
        assert torch.allclose(program.module()(image), segmentor(image), atol=1e-5)
