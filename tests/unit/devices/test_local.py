"""Whether a named device is the machine at hand."""

from __future__ import annotations

import pytest

from edgeseg.devices.local import check_here
from edgeseg.devices.machine import Machine
from edgeseg.errors import Unsupported


def machine(*isa: str) -> Machine:
    return Machine("x86_64", "Linux", "", "a processor", isa, (), None, None, None, {})


def test_what_this_machine_is_may_be_named() -> None:
    check_here("auto", machine())
    check_here("x86-avx2", machine("avx2", "fma", "f16c"))


@pytest.mark.parametrize(("name", "told"), [("rtx4090", "RTX 4090"), ("toaster", "no device 'toaster'")])
def test_another_device_is_refused(name: str, told: str) -> None:
    with pytest.raises(Unsupported, match=told) as refused:
        check_here(name, machine("avx2", "fma", "f16c"))
    assert refused.value.hint
