"""The catalogue: complete, every number with its status, and readable errors for what is not."""

from __future__ import annotations

import os
import re
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from edgeqkv.budget.devices import CATALOGUE, Device, Fact, Npu, load_catalogue
from edgeqkv.budget.presets import load_preset
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
    assert len(catalogue.devices) >= 30
    assert {device.kind for device in catalogue.devices.values()} == {"phone", "tablet", "board", "wearable"}
    assert {"hexagon-v75", "ane-a16", "ethos-u85", "google-tensor-tpu"} <= set(catalogue.npus)
    assert {"ios", "android"} <= set(catalogue.platform)
    assert catalogue.generated


def test_what_is_known_has_a_source() -> None:
    assert len(facts()) > 150
    for name, fact in facts():
        assert fact.sources or fact.status == "unknown", name
        assert fact.value is not None or fact.status == "unknown", name


def test_an_assumed_limit_says_by_which_rule() -> None:
    for name, device in load_catalogue().devices.items():
        limit = device.process_limit_default_gb
        assert limit.status != "unknown" or limit.value is None or limit.note, name


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


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "-3", "0", "1e300", "1e-300"])
@pytest.mark.parametrize("field", ["ram_gb", "process_limit_default_gb", "mem_bandwidth_gbs", "os_reserved_gb"])
def test_a_size_is_a_size(field: str, value: str, tmp_path: Path) -> None:
    if (field, value) in (("os_reserved_gb", "0"), ("os_reserved_gb", "1e-300")):
        return
    path = tmp_path / "own.yaml"
    path.write_text(re.sub(rf"({field}: {{value:) \w+", rf"\1 {value}", OWN))
    with pytest.raises(InputError, match=rf"line \d+: devices\.my-phone\.{field}\.value: .*(finite|than).*, not"):
        load_catalogue(path)


BOMB = "a: &a [x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmnopqrstuvwxyz"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: .*dictionary"),
        ("[]", "line 1: .*dictionary"),
        ("just a word", "line 1: .*dictionary"),
        ("devices: 7", "line 1: devices: .*dictionary"),
        ("7: 8", "line 1: "),
        ("? [1, 2]\n: 3", "line 1: "),
        (BOMB, r"line 2: the alias \*a is not read"),
        ("devices: &a {b: *a}", r"line 1: the alias \*a"),
        ("devices:\n  x: {<<: {title: a}}", "line 2"),
        ("[" * 500, "nested more than 20 deep"),
        ("[" * 100_000, "nested more than 20 deep|exceeded maximum nesting depth"),  # the latter is libyaml's
        ("devices: !!python/object/apply:os.system ['true']", "line 1: not YAML: could not determine a constructor"),
        ("devices: !!binary 'é'", "not YAML"),
        ("devices: !!int 'x'", "not YAML"),
        ("devices: 2024-99-99", "not YAML"),
        ("devices: 1" + "0" * 5000, "not YAML"),
        ("devices: {}\n---\ndevices: {}", "not YAML"),
        ("devices: {}\ndevices: {}", "line 2: 'devices' is said twice; keep one"),
        ("devices:\n  a: {title: x,\n      title: y}", "line 3: 'title' is said twice"),
        ("devices: \x07", "not YAML"),
        ("devices: '\\ud800'", "line 1: "),
        ("%TAG ! x\n%TAG ! y\n---\na", "not YAML"),
        ("#" * (5 << 20), "has 5,242,880 bytes, and a YAML file has 4,194,304 at most"),
    ],
)
def test_whatever_stands_in_a_file_it_is_an_error_with_its_name(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message) as raised:
        load_catalogue(path)
    assert str(path) in str(raised.value)
    with pytest.raises(InputError, match=re.escape(str(path))):
        load_preset(path)


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for path, message in (
        (tmp_path / "pipe.yaml", "is a pipe, not a YAML file"),
        (tmp_path, "is a folder"),
        (Path("x" * 5000), "File name too long"),
    ):
        with pytest.raises(InputError, match=message):
            load_catalogue(path)


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
