"""The catalogue: complete, every number with its status, and readable errors for what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from edgeqkv.budget.devices import CATALOGUE, Device, Fact, Npu, load_catalogue
from edgeqkv.catalogue import nearest
from edgeqkv.errors import InputError

OWN = """
devices:
  my-phone:
    title: My phone
    kind: phone
    system: android
    soc: some SoC
    ram_gb: {value: 12, status: community-measured, sources: [my own measurement]}
    mem_bandwidth_gbs: {value: null, status: unknown}
    process_limit_default_gb: {value: 5, status: community-measured, note: "killed at 5.2"}
    process_limit_max_gb: {value: null, status: unknown}
    os_reserved_gb: {value: 4, status: unknown}
"""


def facts() -> list[tuple[str, Fact[object]]]:
    catalogue = load_catalogue()
    entries: list[tuple[str, Device | Npu]] = [*catalogue.devices.items(), *catalogue.npus.items()]
    return [
        (f"{name}.{field}", value)
        for name, entry in entries
        for field, value in ((key, getattr(entry, key)) for key in type(entry).model_fields)
        if isinstance(value, Fact)
    ]


def test_the_catalogue_has_what_people_ask_for() -> None:
    catalogue = load_catalogue()
    assert {"iphone-15", "pixel-9-pro", "galaxy-s25", "ipad-pro-m4-8gb", "raspberry-pi-5-8gb"} <= set(catalogue.devices)
    assert {"hexagon-v75", "ane-a16", "ethos-u85", "google-tensor-tpu"} <= set(catalogue.npus)
    assert {"ios", "android"} <= set(catalogue.platform)
    assert catalogue.generated


def test_what_is_known_has_a_source() -> None:
    assert len(facts()) > 150
    for name, fact in facts():
        assert fact.sources or fact.status == "unknown", name
        assert fact.value is not None or fact.status == "unknown", name


def test_every_devices_npu_is_in_the_catalogue() -> None:
    catalogue = load_catalogue()
    assert {device.npu for device in catalogue.devices.values() if device.npu} <= set(catalogue.npus)


def test_limits_are_within_the_memory() -> None:
    for name, device in load_catalogue().devices.items():
        for fact in (device.process_limit_default_gb, device.process_limit_max_gb, device.os_reserved_gb):
            assert fact.value is None or fact.value < device.ram_gb.value, name


def test_names_are_found_whatever_their_spelling() -> None:
    catalogue = load_catalogue()
    assert catalogue.find("iPhone_15") is catalogue.find("iphone-15")
    assert catalogue.canonical("Pixel 9 Pro") == "pixel-9-pro"


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown device 'iphone15'; nearest: iphone-15"):
        load_catalogue().find("iphone15")
    assert nearest("zzz", ["b", "a"]) == "known: a, b"


def test_an_own_file_is_laid_over(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(OWN)
    merged = load_catalogue(path)
    mine = merged.find("my-phone")
    assert isinstance(mine, Device)
    assert mine.process_limit_default_gb.value == 5
    assert "iphone-15" in merged.devices
    path.write_text(OWN.replace("my-phone", "iphone-15"))
    assert load_catalogue(path).find("iphone-15").title == "My phone"
    assert load_catalogue().find("iphone-15").title == "iPhone 15"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("status: community-measured, note", "status: guessed, note", r"line 10: .*process_limit_default_gb\.status"),
        ("value: 12", "value: a lot", r"line 8: devices\.my-phone\.ram_gb\.value"),
        ("kind: phone", "kind: watch", r"line 5: devices\.my-phone\.kind"),
        ("    title: My phone\n", "", r"line 3: devices\.my-phone\.title: Field required"),
        ("soc: some SoC", "soc: some SoC\n    colour: red", r"line 8: devices\.my-phone\.colour"),
        ("soc: some SoC", "soc: [some SoC", "not YAML"),
        ("soc: some SoC", "soc: some SoC\n    npu: hexagon-75", "names the NPU 'hexagon-75'; nearest: hexagon-v75"),
    ],
)
def test_a_wrong_file_is_an_error_with_file_and_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    assert old in OWN
    path.write_text(OWN.replace(old, new))
    with pytest.raises(InputError, match=message) as raised:
        load_catalogue(path)
    assert str(path) in str(raised.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*nowhere\.yaml"):
        load_catalogue(tmp_path / "nowhere.yaml")


def test_the_catalogue_names_no_key_twice() -> None:
    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader: Strict, node: yaml.MappingNode) -> dict[str, object]:
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), keys
        return {loader.construct_object(key): loader.construct_object(value, deep=True) for key, value in node.value}

    Strict.add_constructor("tag:yaml.org,2002:map", mapping)
    assert yaml.load(CATALOGUE.read_text(), Strict)
