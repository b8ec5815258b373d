"""Checkpoints that are wrong in what they hold: tensors of every sort, configs, names, pickles."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import torch
from mutations import changed_bytes, changed_tree, hostile, sometimes

__all__ = ["changed_checkpoint", "changed_pickle", "save"]

TYPES = ("float16", "bfloat16", "float64", "int8", "uint8", "int32", "int64", "bool", "complex64")
TYPES += ("float8_e4m3fn", "float8_e5m2", "uint16")


def save(content: Any, path: Path) -> None:
    """As training scripts do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, path)


def changed_checkpoint(random: Random, healthy: dict[str, Any]) -> dict[str, Any]:
    """The same with a few things changed."""
    content = dict(healthy)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        states = [key for key in content if isinstance(content[key], dict) and _has_tensors(content[key])]
        match random.choice(("config", "config", "config", "tensor", "tensor", "tensor", "names", "top")):
            case "config":
                plain = [key for key in content if isinstance(content[key], dict) and not _has_tensors(content[key])]
                if plain:
                    key = random.choice(plain)
                    content[key] = changed_tree(random, content[key])
            case "tensor" if states:
                state = content[states[0]] = dict(content[states[0]])
                _change_tensor(random, state, random.choice(list(state)))
            case "names" if states:
                content[states[0]] = _renamed(random, dict(content[states[0]]))
            case _:
                _change_top(random, content)
                if not content:
                    return content
    return content


def _has_tensors(value: dict[Any, Any]) -> bool:
    return any(isinstance(each, torch.Tensor) for each in value.values())


def _change_top(random: Random, content: dict[Any, Any]) -> None:
    key = random.choice(list(content))
    match random.choice(("drop", "set", "rename", "add", "number", "wrap", "ema")):
        case "drop":
            del content[key]
        case "set":
            content[key] = hostile(random)
        case "rename":
            content[random.choice(("state_dict", "model", "ema_state_dict", "", "\ud800", f"{key}x"))] = content.pop(
                key
            )
        case "number":
            content[random.choice((1, None, (1, 2), 2.5, b"x", True))] = content[key]
        case "wrap":
            content[key] = {"state": content[key]}
        case "ema":
            content["ema_state_dict"] = random.choice((content.get("model_state_dict", {}), {}, None, {"step": 1}))
        case _:
            rest = (torch.tensor(7), torch.ones(3), {"x": torch.ones(2)}, [torch.ones(2)], hostile(random))
            content[random.choice(("step", "rng", "optimizer_state_dict", "task", "variant"))] = random.choice(rest)


def _renamed(random: Random, state: dict[Any, Any]) -> dict[Any, Any]:
    prefix = random.choice(("module.", "_orig_mod.", "module._orig_mod.", "model.", "transformer.", "x"))
    match random.choice(("all", "some", "one", "double", "drop", "number", "case")):
        case "all":
            return {f"{prefix}{key}": value for key, value in state.items()}
        case "some":
            return {f"{prefix}{key}" if sometimes(random, 0.5) else key: value for key, value in state.items()}
        case "double":
            key = random.choice(list(state))
            return state | {f"{prefix}{key}": state[key]}
        case "drop":
            del state[random.choice(list(state))]
        case "number":
            state[random.choice((0, None, ("a",)))] = state.pop(random.choice(list(state)))
        case "case":
            key = random.choice(list(state))
            state[str(key).upper()] = state.pop(key)
        case _:
            key = random.choice(list(state))
            state[str(key).replace("0", random.choice(("7", "-1", "99999999999", "0.0", "x", "")))] = state.pop(key)
    return state


def _change_tensor(random: Random, state: dict[str, Any], name: str) -> None:
    tensor = state[name]
    if not isinstance(tensor, torch.Tensor):
        state[name] = hostile(random)
        return
    kinds = [_another_type, _another_shape, _another_view, _another_value, _another_sort]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state[name] = random.choice(kinds)(random, tensor, state)
    except (RuntimeError, TypeError, ValueError, IndexError):  # torch has no such tensor
        state[name] = hostile(random)


def _another_type(random: Random, tensor: torch.Tensor, state: dict[str, Any]) -> Any:
    return tensor.to(getattr(torch, random.choice(TYPES)))


def _another_shape(random: Random, tensor: torch.Tensor, state: dict[str, Any]) -> Any:
    changes = (
        lambda: tensor.flatten(),
        lambda: tensor.unsqueeze(0),
        lambda: tensor[:0],
        lambda: tensor[:1],
        lambda: torch.cat([tensor, tensor]),
        lambda: tensor.sum(),
        lambda: torch.zeros(0),
        lambda: tensor.T.contiguous() if tensor.ndim == 2 else tensor[None],
        lambda: torch.zeros((1,) * 20),
        lambda: tensor[..., :-1].clone(),
    )
    return random.choice(changes)()


def _another_view(random: Random, tensor: torch.Tensor, state: dict[str, Any]) -> Any:
    """Strides that torch allows, and that a file need not have."""
    changes = (
        lambda: tensor.T if tensor.ndim == 2 else tensor,
        lambda: tensor.flatten()[:1].expand(tensor.shape),
        lambda: tensor.as_strided(tensor.shape, (0,) * tensor.ndim),
        lambda: tensor.as_strided(tensor.shape, (1,) * tensor.ndim),
        lambda: torch.cat([tensor, tensor])[: len(tensor)],
        lambda: torch.stack([tensor, tensor], -1)[..., 1],
        lambda: tensor.as_strided((10**9, 10**9), (0, 0)),
        lambda: tensor.flip(0),
        lambda: state[random.choice(list(state))],
        lambda: tensor.as_strided((2**40,), (0,)),
    )
    return random.choice(changes)()


def _another_value(random: Random, tensor: torch.Tensor, state: dict[str, Any]) -> Any:
    changed = tensor.clone()
    if changed.numel():
        value = random.choice((float("nan"), float("inf"), -float("inf"), 1e38, 1e-45, 0.0, 65504.0, 7e4))
        if sometimes(random, 0.4):
            changed.fill_(value)
        else:
            changed.view(-1)[random.randrange(changed.numel())] = value
    return changed


def _another_sort(random: Random, tensor: torch.Tensor, state: dict[str, Any]) -> Any:
    changes = (
        lambda: tensor.to("meta"),
        lambda: tensor.to_sparse(),
        lambda: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        lambda: torch.nn.Parameter(tensor),
        lambda: tensor.numpy(),
        lambda: tensor.tolist(),
        lambda: torch.nested.nested_tensor([tensor, tensor]),
        lambda: tensor.clone().requires_grad_(),
        lambda: torch.nn.Buffer(tensor),
        lambda: torch.empty_like(tensor).conj(),
        lambda: tensor.storage(),
        lambda: (tensor, tensor),
    )
    return random.choice(changes)()


class _Calls:
    """Pickled, it is a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def changed_pickle(random: Random, path: Path, canary: Path) -> None:
    """Another pickle in a checkpoint's archive, or in place of it; one that is run leaves a file."""
    with zipfile.ZipFile(path) as whole:
        records = {name: whole.read(name) for name in whole.namelist()}
    name = next(each for each in records if each.endswith("data.pkl"))
    match random.choice(("bytes", "bytes", "call", "raw", "codes", "legacy")):
        case "bytes":
            records[name] = changed_bytes(random, records[name])
        case "codes":
            codes = bytes(random.choice(b"()]}.0NIJKMRbcehqrstu\x80\x85\x86\x87\x88\x93\x94") for _ in range(40))
            at = random.randrange(len(records[name]))
            records[name] = records[name][:at] + codes + records[name][at:]
        case "call":
            records[name] = _hostile_pickle(random, canary)
        case "raw":
            path.write_bytes(_hostile_pickle(random, canary))
            return
        case _:
            stream = io.BytesIO()
            torch.save({"model_config": {}, "x": torch.ones(3)}, stream, _use_new_zipfile_serialization=False)
            content = stream.getvalue()
            path.write_bytes(changed_bytes(random, content) if sometimes(random, 0.7) else content)
            return
    with zipfile.ZipFile(path, "w") as other:
        for each, data in records.items():
            other.writestr(each, data)


def _hostile_pickle(random: Random, canary: Path) -> bytes:
    import os
    import pathlib

    calls = (
        _Calls(os.system, f"touch {canary}"),
        _Calls(os.mkdir, str(canary)),
        _Calls(open, str(canary), "w"),
        _Calls(eval, f"open({str(canary)!r}, 'w')"),
        _Calls(pathlib.Path.touch, canary),
        _Calls(exec, f"import os; os.mkdir({str(canary)!r})"),
    )
    held = random.choice(calls)
    shape = random.choice(({"model_state_dict": held, "model_config": {}}, held, [held], {"model_config": {"x": held}}))
    return pickle.dumps(shape, protocol=random.choice((0, 2, 4)))
