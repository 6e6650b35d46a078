"""Bundles: what is packed comes back, damage is found and named, and nothing that goes wrong costs the old
bundle.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeseg.bundle import Bundle, open_bundle
from edgeseg.bundle.manifest import FORMAT, read_manifest
from edgeseg.engines.open import open_session
from edgeseg.errors import BundleError, EngineMismatch, IntegrityError
from edgeseg.specs import IsrPlan
from edgeseg.testing.fakes import FakeSession
from tiny import tiny_bundle, tiny_engine, tiny_image, tiny_mask, tiny_program


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "tiny.edgeseg")


@pytest.fixture
def engine_file(tmp_path: Path) -> Path:
    path = tmp_path / "engine.onnx"
    path.write_bytes(b"not a graph at all")
    return path


def reseal(bundle: Bundle, change: dict[str, Any]) -> None:
    """Change the manifest as a newer version might have written it, digest and all."""
    from edgeseg.bundle.manifest import _digest

    path = bundle.path / "manifest.json"
    data = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({**data, "digest": _digest(data)}))


def leftovers(folder: Path, name: str = "tiny.edgeseg") -> set[str]:
    return {path.name for path in folder.iterdir() if name in path.name} - {name, f".{name}.lock"}


# What is packed comes back


def test_round_trip(bundle: Bundle, tmp_path: Path) -> None:
    opened = open_bundle(tmp_path / "tiny.edgeseg")
    program, made = opened.program(), tiny_program(tmp_path / "again.onnx")
    assert program.onnx_path.read_bytes() == made.onnx_path.read_bytes()
    assert (program.image, program.labels, program.mask_shape, program.isr) == (
        made.image,
        made.labels,
        made.mask_shape,
        made.isr,
    )
    frames = list(opened.golden())
    assert [frame.name for frame in frames] == ["frame0", "frame1"]
    for seed, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image_rgb, tiny_image(seed))
        np.testing.assert_array_equal(frame.mask, tiny_mask(tiny_image(seed)))
    assert (opened.name, opened.recipe().gate.min_mask_agreement) == ("tiny", 0.99)
    assert json.loads(opened.file(opened.manifest.reports["accuracy"]).read_text()) == {"miou": 0.5}
    assert leftovers(tmp_path) == set()


def test_levels_and_precisions(tmp_path: Path) -> None:
    fast = IsrPlan((2, 2, 1, 1), (2, 2, 2))
    programs = [
        tiny_program(tmp_path / "a.onnx"),
        tiny_program(tmp_path / "b.onnx", isr=fast, threshold=100.0),
    ]
    image = tiny_image()
    golden = [("x", image, tiny_mask(image)), ("x", image, tiny_mask(image, 100.0), 1)]
    bundle = tiny_bundle(tmp_path / "two.edgeseg", programs=programs, golden=golden)
    assert [level.isr for level in bundle.manifest.levels] == [str(IsrPlan()), str(fast)]
    assert bundle.program(1).isr == fast
    assert [frame.name for frame in bundle.golden(1)] == ["x"]
    with pytest.raises(BundleError, match="no int8 program at level 1"):
        bundle.program(1, "int8")
    with pytest.raises(BundleError, match="no level 2; its levels are 0 to 1"):
        bundle.program(2)


def test_golden_agreement(bundle: Bundle) -> None:
    program = bundle.program()
    assert bundle.golden_agreement(FakeSession(program, tiny_mask)) == {"frame0": 1.0, "frame1": 1.0}
    flipped = bundle.golden_agreement(FakeSession(program, lambda image: np.uint8(1) - tiny_mask(image)))
    assert flipped == {"frame0": 0.0, "frame1": 0.0}


def test_a_bundle_behind_a_link_is_replaced_there(bundle: Bundle, tmp_path: Path) -> None:
    link = tmp_path / "latest"
    link.symlink_to(bundle.path)
    tiny_bundle(link, reports={})
    assert link.is_symlink()
    assert open_bundle(bundle.path).manifest.reports == {}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"programs": []}, "at least one program"),
        ({"golden": []}, "every program needs a golden frame"),
        (
            {"golden": [("x", tiny_image(), np.zeros((32, 64), np.uint8))]},
            r"the mask is uint8 \(32, 64\), not uint8 \(16, 32\)",
        ),
        ({"golden": [("x", tiny_image().astype(float), tiny_mask(tiny_image()))]}, "the image is float64"),
        ({"golden": [("../x", tiny_image(), tiny_mask(tiny_image()))]}, "plain file stems"),
        ({"golden": [("x", tiny_image(), tiny_mask(tiny_image()))] * 2}, "distinct"),
        ({"golden": [("x", tiny_image(), tiny_mask(tiny_image()), 3)]}, "no float program at level 3"),
    ],
)
def test_misuse_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_bundle(tmp_path / "t.edgeseg", **changes)
    assert not (tmp_path / "t.edgeseg").exists()


# Damage


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no bundle"):
        open_bundle(tmp_path / "none.edgeseg")
    with pytest.raises(BundleError, match=r"holds no manifest\.json"):
        open_bundle(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="a bundle is a folder"):
        open_bundle(tmp_path / "file")


def test_newer_format_is_told_before_anything_else(bundle: Bundle) -> None:
    (bundle.path / "manifest.json").write_text(f'{{"format": {FORMAT + 1}, "all": "new"}}')
    with pytest.raises(
        BundleError, match=rf"bundle format {FORMAT + 1}; edgeseg .* reads up to {FORMAT}"
    ) as caught:
        open_bundle(bundle.path)
    assert "--upgrade" in caught.value.hint


def test_bundles_of_the_first_format_are_read_and_get_the_new_number_with_their_next_engine(
    bundle: Bundle, engine_file: Path
) -> None:
    """As they were written: without the keys that came later."""
    path = bundle.path / "manifest.json"
    data = json.loads(path.read_bytes())
    del data["levels"][0]["programs"]["float"]["opset"], data["choices"]
    path.write_text(json.dumps(data))
    reseal(bundle, {"format": 1})
    old = open_bundle(bundle.path)
    assert (old.manifest.format, old.manifest.choices, old.manifest.levels[0].programs["float"].opset) == (
        1,
        (),
        None,
    )
    old.add_engine(tiny_engine(), [engine_file])
    assert read_manifest(bundle.path).format == FORMAT


@pytest.mark.parametrize(
    "change, message",
    [
        ({"levels": []}, "levels"),
        ({"surprise": 1}, "surprise"),
        ({"recipe": "../../etc/passwd"}, "not a plain path inside"),
        ({"recipe": "/etc/passwd"}, "not a plain path inside"),
        ({"reports": {}}, "differ on report/accuracy.json"),
        (
            {
                "golden": [
                    {
                        "level": 7,
                        "name": "x",
                        "image": "golden/frame0.png",
                        "mask": "golden/level0/frame0.png",
                    }
                ]
            },
            "differ|level 7",
        ),
    ],
)
def test_a_manifest_that_makes_no_sense(change: dict[str, Any], message: str, bundle: Bundle) -> None:
    reseal(bundle, change)
    with pytest.raises(BundleError, match=message):
        open_bundle(bundle.path)


def test_truncated_and_missing_files_are_all_named(bundle: Bundle) -> None:
    with open(bundle.path / "programs/level0-float.onnx", "r+b") as file:
        file.truncate(100)
    os.unlink(bundle.path / "golden/frame1.png")
    with pytest.raises(IntegrityError) as caught:
        bundle.verify()
    text = str(caught.value)
    assert "2 of 7 files" in text
    assert "programs/level0-float.onnx was changed or cut short: expected" in text
    assert "found 100" in text
    assert "golden/frame1.png is missing" in text
    with pytest.raises(IntegrityError, match=r"float\.onnx"):
        bundle.program()


def test_unlisted_files_are_reported_and_do_no_harm(bundle: Bundle) -> None:
    (bundle.path / ".DS_Store").write_bytes(b"\0")
    assert bundle.verify().unlisted == (".DS_Store",)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("intact") / "tiny.edgeseg").path


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_flipped_bit_is_found(intact: Path, data: st.DataObject) -> None:
    files = sorted(path for path in intact.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    good = path.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(good) - 1))
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bad)
    try:
        with pytest.raises(BundleError, match=f"{path.name}|bundle format [2-9]"):
            open_bundle(intact).verify()
    finally:
        path.write_bytes(good)
    open_bundle(intact).verify()


@given(cut=st.floats(0, 1, exclude_max=True))
@settings(max_examples=20)
def test_a_manifest_cut_anywhere_is_found(intact: Path, cut: float) -> None:
    path = intact / "manifest.json"
    good = path.read_bytes()
    path.write_bytes(good[: int(cut * len(good))])
    try:
        with pytest.raises(IntegrityError, match=r"manifest\.json"):
            open_bundle(intact)
    finally:
        path.write_bytes(good)


# Engines


def test_engine_of_another_device_never_reaches_a_runtime(bundle: Bundle, engine_file: Path) -> None:
    with pytest.raises(BundleError, match="holds no engine for level 0 yet"):
        open_session(bundle)
    bundle.add_engine(tiny_engine(), [engine_file])
    with pytest.raises(EngineMismatch) as caught:
        open_session(open_bundle(bundle.path))
    assert caught.value.built_on == "a toaster with onnxruntime 1.0"
    assert "onnxruntime" in caught.value.here
    assert caught.value.hint == f"edgeseg build {bundle.path}"


def test_engine_is_replaced_by_its_successor_only(bundle: Bundle, engine_file: Path) -> None:
    other = bundle.add_engine(tiny_engine(device_key="c" * 64), [engine_file])
    first = bundle.add_engine(tiny_engine(), [engine_file])
    engine_file.write_bytes(b"a better one")
    second = bundle.add_engine(tiny_engine(), [engine_file])
    assert read_manifest(bundle.path).engines == (other, second)
    assert bundle.file(second.files[0]).read_bytes() == b"a better one"
    assert not (bundle.path / first.files[0]).parent.exists()
    assert bundle.verify().unlisted == ()


def test_changed_engine_file_is_not_used(bundle: Bundle, engine_file: Path) -> None:
    from edgeseg.devices.machine import detect
    from edgeseg.engines import table

    here = table.fingerprint("onnxruntime", detect())
    entry = bundle.add_engine(tiny_engine(device=str(here), device_key=here.key), [engine_file])
    with pytest.raises(BundleError, match="onnxruntime refuses"):
        open_session(bundle)  # intact, but no graph
    (bundle.path / entry.files[0]).write_bytes(b"not a graph at ALL")
    with pytest.raises(IntegrityError, match=r"expected sha256 .*, found") as caught:
        open_session(bundle)
    assert caught.value.hint == f"edgeseg build {bundle.path}"


def test_engine_for_a_bundle_made_anew_meanwhile(bundle: Bundle, engine_file: Path, tmp_path: Path) -> None:
    image = tiny_image()
    program = tiny_program(tmp_path / "other.onnx", threshold=90.0)
    tiny_bundle(bundle.path, programs=[program], golden=[("x", image, tiny_mask(image, 90.0))])
    with pytest.raises(BundleError, match="was made anew"):
        bundle.add_engine(tiny_engine(), [engine_file])
    assert open_bundle(bundle.path).manifest.engines == ()


def test_copied_elsewhere_it_still_verifies(bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(bundle.path, tmp_path / "elsewhere" / "renamed.edgeseg")
    open_bundle(tmp_path / "elsewhere" / "renamed.edgeseg").verify()
