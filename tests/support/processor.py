"""The processor that the tests run on: what it has is asked, never assumed. A test that needs more than every
processor has is marked by `needs`; what happens without it is tested everywhere, by `pretend`."""

from __future__ import annotations

import pytest

from edgeseg.devices import instructions, local
from edgeseg.devices import machine as machine_module
from edgeseg.devices.machine import Machine
from edgeseg.devices.probe import told_isa
from edgeseg.engines import open as open_module
from edgeseg.engines.choose import build, choice, for_card

VNNI = ("avx_vnni", "avx512_vnni")


def has(*any_of: str) -> bool:
    """Whether this processor has one of these flags of `instructions.ISA_FLAGS`. What is unknown is not
    there.
    """
    assert set(any_of) <= set(instructions.ISA_FLAGS), any_of
    return not set(any_of).isdisjoint(instructions.processor().isa)


def needs(*any_of: str) -> pytest.MarkDecorator:
    """A mark: the test runs where the processor has one of these flags; elsewhere it is skipped, and says
    why.
    """
    found = instructions.processor()
    reason = (
        f"needs {' or '.join(any_of)}, and this is {found.model or 'unknown'}:"
        f" {told_isa(found.isa, found.isa_unknown)}"
    )
    return pytest.mark.skipif(not has(*any_of), reason=reason)


needs_vnni = needs(*VNNI)
"""For what is right, or fast, only where products of bytes are added up in 32 bits."""


def pretend(
    patch: pytest.MonkeyPatch, *isa: str, model: str = "a processor", unknown: tuple[str, ...] = ()
) -> None:
    """Make this machine's processor say that it has these flags, and no others. It computes as before: for
    choices alone.
    """
    patch.setattr(instructions, "here", lambda: instructions.Processor(model, isa, unknown))


def be(patch: pytest.MonkeyPatch, machine: Machine) -> None:
    """Make every command find this machine. Functions take it as an argument; command lines need this."""
    for module in (machine_module, local, open_module, build, choice, for_card):
        patch.setattr(module, "detect", lambda: machine)
