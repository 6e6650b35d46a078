"""How fast a machine is set to run: read from recorded trees, compared, told, and in no engine's key."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

import machines
from edgeseg.devices.clocks import clocks, differences, told
from edgeseg.devices.doctor.slowdowns import SLOW
from edgeseg.devices.local import timed_otherwise
from edgeseg.devices.machine import Machine, detect
from edgeseg.devices.nvidia import Gpu
from edgeseg.devices.nvpmodel import PowerMode, fastest, parse_modes, parse_status
from machines import Tree, write_tree

NAMES = st.from_regex(r"[A-Z0-9_]{1,12}", fullmatch=True)
BAD = ["", "\0\xff", "nonsense", "-1", "9" * 400, "\N{SUPERSCRIPT TWO}", "1.5", "[always]"]


def machine(tree: Tree, folder: Path) -> Machine:
    return detect(write_tree(folder, tree), "aarch64" if "proc/device-tree/model" in tree else "x86_64")


@pytest.mark.parametrize(
    ("tree", "settings"),
    [
        (
            machines.ORIN_NANO_25W,
            {
                "power_mode": "25W (1)",
                "jetson_clocks": "off",
                "gpu_mhz": "306-918",
                "gpu_governor": "nvhost_podgov",
                "cpu_mhz": "730-1344",
                "cpu_governor": "schedutil",
                "cpu_driver": "tegra194",
                "cores_online": "0-5",
            },
        ),
        (
            machines.ORIN_NANO_MAXN_HELD,
            {"power_mode": "MAXN_SUPER (2)", "jetson_clocks": "on", "gpu_mhz": "1020", "cpu_mhz": "1728"},
        ),
        (machines.THOR_120W, {"power_mode": "120W (1)", "gpu_mhz": "315-1575", "jetson_clocks": "off"}),
        (machines.AGX_ORIN_CONTAINER, {}),
        (
            machines.LAPTOP_ON_BATTERY,
            {
                "cpu_mhz": "800-4900",
                "cpu_preference": "balance_power",
                "turbo": "off",
                "platform_profile": "low-power",
            },
        ),
        (machines.OLD_GOVERNOR, {"cpu_governor": "powersave", "cpu_driver": "acpi-cpufreq", "turbo": "on"}),
    ],
)
def test_recorded_settings(tree: Tree, settings: dict[str, str], tmp_path: Path) -> None:
    found = machine(tree, tmp_path).clocks
    assert settings.items() <= found.items()
    assert bool(found) == bool(settings)
    assert all(found.values())


def test_clusters_are_told_apart(tmp_path: Path) -> None:
    tree = machines.cpufreq(
        {0: (408000, 1800000), 4: (408000, 2400000), 10: (408000, 2400000)}, "ondemand", "cpufreq-dt"
    )
    assert clocks(write_tree(tmp_path, tree))["cpu_mhz"] == "408-1800 + 408-2400"


def test_graphics_cards_tell_their_limits(tmp_path: Path) -> None:
    cards = [Gpu("one", power_limit_w=350.0, max_mhz=3105, persistence=False), Gpu("silent")]
    assert clocks(tmp_path, cards) == {
        "gpu0_power_limit_w": "350",
        "gpu0_max_mhz": "3105",
        "gpu0_persistence": "off",
    }
    assert told("gpu0_power_limit_w") == "GPU 0 power limit W"


@pytest.mark.parametrize("content", BAD)
def test_files_that_make_no_sense(content: str, tmp_path: Path) -> None:
    files = (
        name
        for name in {**machines.ORIN_NANO_25W, **machines.LAPTOP_ON_BATTERY}
        if not name.startswith("proc/device-tree")
    )
    board = {
        name: machines.ORIN_NANO_25W[name]
        for name in machines.ORIN_NANO_25W
        if name.startswith("proc/device-tree")
    }
    found = machine({**dict.fromkeys(files, content), **board}, tmp_path)
    assert not {"power_mode", "gpu_mhz", "cpu_mhz", "turbo"} & found.clocks.keys()
    assert (found.memory_gb, found.power_modes) == (None, ())
    assert all(value.isprintable() and len(value) <= 100 for value in found.clocks.values())


@given(
    content=st.dictionaries(
        st.sampled_from(sorted({**machines.ORIN_NANO_25W, **machines.OLD_GOVERNOR})), st.binary(max_size=60)
    )
)
def test_whatever_bytes_the_files_hold(content: dict[str, bytes]) -> None:
    with TemporaryDirectory() as folder:
        for name, data in content.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        found, settings = detect(Path(folder), "aarch64"), clocks(Path(folder), jetson=True)
    assert all(value.isprintable() and 0 < len(value) <= 300 for value in (found.clocks | settings).values())
    assert all(finding.hint for trap in SLOW if (finding := trap(found)))


@given(
    number=st.integers(0, 10**9 - 1), rest=st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
)
def test_the_mode_in_force(number: int, rest: str) -> None:
    assert parse_status(f"pmode:{number:04} {rest}") == number
    assert parse_status(f"fmode:quiet pmode:{number}\n") == number


@given(
    st.dictionaries(st.integers(0, 999), st.tuples(NAMES, st.none() | st.integers(-1, 10**10)), max_size=8)
)
def test_modes_are_read_back(given_modes: dict[int, tuple[str, int | None]]) -> None:
    lines = ["# < POWER_MODEL ID=999 NAME=COMMENT >", "< PARAM TYPE=CLOCK NAME=GPU >", "GPU MAX_FREQ 5"]
    for number, (name, limit) in given_modes.items():
        lines += [f"< POWER_MODEL ID={number} NAME={name} >", "GPU MIN_FREQ 0", "EMC MAX_FREQ 9"]
        lines += [] if limit is None else [f"GPU MAX_FREQ {limit}"]
    found = parse_modes("\n".join([*lines, "< PM_CONFIG DEFAULT=0 >", "GPU MAX_FREQ 7"]))
    limits = {number: math.inf if limit == -1 else limit for number, (_, limit) in given_modes.items()}
    assert found == [PowerMode(number, name, limits[number]) for number, (name, _) in given_modes.items()]


@given(
    st.text(max_size=200)
    | st.from_regex(r"(< ?POWER_MODEL (ID|NAME)?=?\w* ?\w*>?\n?|GPU MAX_FREQ -?\d*\n){0,5}", fullmatch=True)
)
def test_parsers_never_fail(text: str) -> None:
    modes = parse_modes(text)
    assert (fastest(modes) is None) == (not modes)
    assert len({mode.number for mode in modes}) == len(modes)
    assert parse_status(text) is None or "pmode:" in text


@pytest.mark.parametrize(
    ("text", "best"),
    [
        (machines.ORIN_NANO_SUPER_MODES, "MAXN_SUPER (2)"),
        ("< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=7W >", "15W (0)"),
        ("< POWER_MODEL NAME=MODE_30W ID=2 >\n< POWER_MODEL NAME=MAXN ID=0 >", "MAXN (0)"),
        (
            "< POWER_MODEL ID=0 NAME=FAST >\nGPU MAX_FREQ 9\n< POWER_MODEL ID=1 NAME=MAXN >\nGPU MAX_FREQ 8",
            "FAST (0)",
        ),
    ],
)
def test_the_fastest_mode_is_not_the_highest_number(text: str, best: str) -> None:
    assert str(fastest(parse_modes(text))) == best


def test_differences_are_told_and_unknowns_are_none(tmp_path: Path) -> None:
    then = machine(machines.ORIN_NANO_MAXN_HELD, tmp_path / "then").clocks
    now = machine(machines.ORIN_NANO_25W, tmp_path / "now")
    found = timed_otherwise(then, now)
    assert "power mode is 25W (1), was MAXN_SUPER (2)" in found
    assert "jetson_clocks is off, was on" in found
    assert timed_otherwise(now.clocks, now) == timed_otherwise({}, now) == ""
    assert differences({"turbo": "on"}, {"power_mode": "15W (0)"}) == []


def test_power_mode_and_clocks_leave_the_engines_key_alone(tmp_path: Path) -> None:
    """An engine stays right at every clock: it would be a waste to build it anew."""
    one, other = (
        machine(tree, tmp_path / name)
        for name, tree in (("a", machines.ORIN_NANO_25W), ("b", machines.ORIN_NANO_MAXN_HELD))
    )
    assert one.clocks != other.clocks
    assert (one.accelerator, one.cpu, one.isa) == (other.accelerator, other.cpu, other.isa)
    card = Gpu("NVIDIA GeForce RTX 4090", "8.9", 25.8, 128, 450.0, 450.0, 3105, True)
    capped = Gpu("NVIDIA GeForce RTX 4090", "8.9", 25.8, 128, 300.0, 450.0, 2520, False)
    fields = {name: getattr(one, name) for name in Machine.__slots__} | {"jetson": None}
    names = {
        Machine(**{**fields, "gpus": cards}).accelerator for cards in ((card,), (capped,), (card, capped))
    }
    assert names == {"NVIDIA GeForce RTX 4090 (8.9)"}


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        (machines.ORIN_NANO_25W, ["power mode", "jetson_clocks"]),
        (machines.ORIN_NANO_MAXN_HELD, []),
        (machines.ORIN_NANO_4GB, ["memory"]),
        ({**machines.ORIN_NANO_4GB, **machines.memory(3866704, ("/swapfile", 8388604))}, []),
        ({**machines.ORIN_NANO_25W, **machines.memory(7802840)}, ["power mode", "jetson_clocks", "memory"]),
        (machines.LAPTOP_ON_BATTERY, ["processor's governor", "turbo", "platform profile"]),
        (machines.OLD_GOVERNOR, ["processor's governor"]),
        (machines.AGX_ORIN_CONTAINER, ["container"]),
        (machines.RTX_4090_CONTAINER, ["container"]),
        (machines.RTX_4090_CONTAINER_WITH_GPU, []),
        ({**machines.SERVER, ".dockerenv": ""}, []),
        (machines.WITHOUT_TURBO, []),
        (machines.SERVER, []),
        (machines.RASPBERRY_PI_5, []),
        (machines.ROCK_5B, []),
    ],
)
def test_what_makes_a_machine_slower_than_it_is(tree: Tree, names: list[str], tmp_path: Path) -> None:
    found = [finding for trap in SLOW if (finding := trap(machine(tree, tmp_path)))]
    assert [finding.name for finding in found] == names
    assert all(finding.hint and not finding.ok for finding in found)
    if "power mode" in names:
        assert found[0].found.startswith("25W (1); the fastest of this board is MAXN_SUPER (2)")
        assert found[0].hint == "sudo nvpmodel -m 2"


def test_a_capped_card(tmp_path: Path) -> None:
    fields = {name: getattr(machine(machines.RTX_4090, tmp_path), name) for name in Machine.__slots__}
    cards = (
        Gpu("A", "8.9", power_limit_w=450.0, power_default_w=450.0),
        Gpu("B", "8.9", power_limit_w=200.0, power_default_w=320.0),
    )
    found = [finding for trap in SLOW if (finding := trap(Machine(**{**fields, "gpus": cards})))]
    assert [finding.hint for finding in found] == ["sudo nvidia-smi -i 1 -pl 320"]
