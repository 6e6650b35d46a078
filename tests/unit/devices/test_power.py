"""Power meters, read from trees as the kernel would show them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.devices.power import METERS, Ina3221, PowerMeter, Rapl
from edgeseg.testing.values import check_meter
from plugins import install


def write(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def channel(hwmon: int, number: int, rail: str, millivolts: int, milliamps: int) -> dict[str, object]:
    at = f"sys/class/hwmon/hwmon{hwmon}"
    return {
        f"{at}/name": "ina3221",
        f"{at}/in{number}_label": rail,
        f"{at}/in{number}_input": millivolts,
        f"{at}/curr{number}_input": milliamps,
    }


def test_the_rails_of_a_jetson(tmp_path: Path) -> None:
    # As an Orin Nano's developer kit shows them; its other sensors are no power meters.
    files = (
        channel(1, 1, "VDD_CPU_GPU_CV", 5080, 560)
        | channel(1, 2, "VDD_SOC", 5072, 1104)
        | channel(1, 3, "NC", 5000, 10)
    )
    files |= channel(2, 1, "VDD_IN", 5088, 3240) | {
        "sys/class/hwmon/hwmon2/in7_label": "sum of shunt voltages"
    }
    files |= {"sys/class/hwmon/hwmon0/name": "cpu_thermal", "sys/class/hwmon/hwmon0/temp1_input": 48000}
    assert Ina3221(write(tmp_path, files)).read() == pytest.approx(
        {"VDD_CPU_GPU_CV": 2.8448, "VDD_SOC": 5.599488, "VDD_IN": 16.48512}
    )
    assert next(iter(PowerMeter([Ina3221(tmp_path), Rapl(tmp_path)]).read())) == "VDD_IN"


def test_a_rail_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    files = channel(1, 1, "VDD_GPU", 5000, 1000) | channel(1, 2, "VDD_SOC", 5000, 1000)
    write(tmp_path, files | {"sys/class/hwmon/hwmon1/curr2_input": "error"})
    assert Ina3221(tmp_path).read() == {"VDD_GPU": 5.0}


@given(
    start=st.integers(0, 10**9),
    spent=st.lists(st.integers(0, 10**9 - 1), min_size=1, max_size=8),
    gap_s=st.floats(0.01, 100),
)
def test_rapl_counts_over_its_wrap(
    tmp_path_factory: pytest.TempPathFactory, start: int, spent: list[int], gap_s: float
) -> None:
    root, zone, top = tmp_path_factory.getbasetemp() / "rapl", "sys/class/powercap/intel-rapl:0", 10**9
    counter, now_s = start, 50.0
    files = {f"{zone}/name": "package-0", f"{zone}/max_energy_range_uj": top, f"{zone}/energy_uj": counter}
    write(root, {**files, f"{zone}:0/name": "core", f"{zone}:0/energy_uj": 5})
    rapl = Rapl(root, lambda: now_s)
    assert rapl.read() == {}
    for energy_uj in spent:
        counter = (counter + energy_uj) % (top + 1)
        now_s += gap_s
        write(root, {f"{zone}/energy_uj": counter})
        assert rapl.read() == {"CPU package-0": pytest.approx(energy_uj / 1e6 / gap_s, rel=1e-6, abs=1e-12)}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_counter_that_is_roots_is_left_out(tmp_path: Path) -> None:
    zone = "sys/class/powercap/intel-rapl:0"
    write(tmp_path, {f"{zone}/name": "package-0", f"{zone}/energy_uj": 5})
    (tmp_path / zone / "energy_uj").chmod(0)
    assert PowerMeter([Ina3221(tmp_path), Rapl(tmp_path)]).read() == {}


def test_a_machine_without_meters(tmp_path: Path) -> None:
    assert PowerMeter([Ina3221(tmp_path), Rapl(tmp_path)]).read() == {}


def test_who_asks_twice_at_once_gets_one_reading(tmp_path: Path) -> None:
    now_s = [0.0]
    meter = PowerMeter([Ina3221(write(tmp_path, channel(1, 1, "VDD_IN", 5000, 1000)))], lambda: now_s[0])
    assert meter.read() == {"VDD_IN": 5.0}
    write(tmp_path, channel(1, 1, "VDD_IN", 5000, 2000))
    now_s[0] = 0.1
    assert meter.read() == {"VDD_IN": 5.0}
    now_s[0] = 0.3
    assert meter.read() == {"VDD_IN": 10.0}


def test_gpus_by_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    def power_usage(handle: str) -> int:
        if handle == "lost":
            raise NVMLError("GPU is lost")
        return 71_500

    handles = ["fine", "fine"]
    library = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: handles[index],
        nvmlDeviceGetPowerUsage=power_usage,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    now_s = [0.0]
    meter = PowerMeter(clock=lambda: now_s[0])
    assert {"GPU 0": 71.5, "GPU 1": 71.5}.items() <= meter.read().items()
    handles[1] = "lost"
    fresh = PowerMeter().read()
    assert fresh["GPU 0"] == 71.5 and "GPU 1" not in fresh


def test_this_machine_is_read_without_a_word() -> None:
    for name in METERS.names():
        check_meter(METERS.load(name)())
    check_meter(PowerMeter())


def test_a_meter_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "class Bench:\n    def read(self): return {'bench supply': 12.5}"
    install(tmp_path, monkeypatch, "acme", {"edgeseg.meters": {"bench": "acme:Bench"}}, code)
    install(tmp_path, monkeypatch, "broken", {"edgeseg.meters": {"odd": "broken:Odd"}}, "1 / 0")
    assert PowerMeter().read()["bench supply"] == 12.5
