"""Checks of inference runtimes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edgeseg.contracts import EngineBackend, Option, Session
from edgeseg.images import resize_image, resize_mask
from edgeseg.specs import ImageU8, MaskU8, Program
from edgeseg.testing.expect import expect, refused


def check_backend(
    backend: EngineBackend,
    program: Program,
    images: Sequence[ImageU8],
    answer: Callable[[ImageU8], MaskU8],
    folder: Path,
) -> None:
    """Check that a runtime which is installed, and has a device here, keeps its contract
    (`contracts.EngineBackend`).

    Args:
        program: a float program, such as one of a bundle's.
        images: at least two of the program's size, without ties between classes, such as golden frames.
        answer: the right mask of an image of the program's size.
        folder: an empty one, for engines.
    Raises:
        AssertionError: it does not.
    """
    expect(backend.version(), "a runtime has a version")
    expect(all(isinstance(one, Option) for one in backend.options.values()), "options are contracts.Option")
    expect(backend.form_for("float"), "it runs float programs")
    variants = backend.variants()
    expect(variants, "it has a variant where it can run")
    before = program.onnx_path.read_bytes()
    threads = {"threads": 1} if "threads" in backend.options else {}
    for number, variant in enumerate(variants):
        options = {**threads, **variant}
        place = folder / str(number)
        place.mkdir()
        files = backend.compile(program, place, options)
        expect(files and {file.parent for file in files} == {place}, "it writes into its folder alone")
        expect(program.onnx_path.read_bytes() == before, "it does not change the program")
        with backend.load(program, files, options) as session:
            check_session(session, images, answer)
        session.close()  # once more
        with refused(ValueError, "a closed session answers no more"):
            session.infer(images[0])


def check_session(session: Session, images: Sequence[ImageU8], answer: Callable[[ImageU8], MaskU8]) -> None:
    """Check that an open engine keeps its contract (`contracts.Session`); arguments as of `check_backend`.
    Raises AssertionError.
    """
    expect(isinstance(session, Session), "it is a contracts.Session")
    program, first = session.program, images[0]
    mask = session.infer(first)
    kept = mask.copy()
    for image in images:
        found = session.infer(image)
        expect(found.dtype == np.uint8, "a mask is uint8")
        expect(np.array_equal(found, answer(image)), "its answers are right")
        found[:] = 7
    expect(np.array_equal(mask, kept), "a mask belongs to the caller")
    expect(
        np.array_equal(session.infer(np.asfortranarray(first)), kept),
        "images may lie in any order",
    )
    height, width = program.image.size_hw
    other = (height // 2 + 3, width + 5)
    image = resize_image(first, other)
    right = resize_mask(answer(resize_image(image, program.image.size_hw)), other)
    expect(np.array_equal(session.segment(image), right), "segment takes any size, and gives it back")
    for wrong in (first[:-1], first[:, :, 0], first.astype(np.float32)):
        with refused(ValueError, "an image that does not fit is a ValueError"):
            session.infer(wrong)  # type: ignore[arg-type]  # that is the point
