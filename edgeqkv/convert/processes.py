"""The processes that distil together: this one alone, or as many as Hugging Face's accelerate was told to start.

Whoever trains asks these what to do in a place of its own, and is told the same whether there is one processor, one GPU
or a cluster. What is distributed, and how, is accelerate's and torch's: nothing here sends anything by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, Final, TypeVar

import torch

from edgeqkv.errors import EdgeQKVError, InputError
from edgeqkv.extras import needed_for

__all__ = ["Alone", "LostProcess", "Processes", "follows", "joined"]

T = TypeVar("T")

Tensor = torch.Tensor
State = dict[str, Any]

_RANKS: Final = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_COUNTS: Final = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where launchers say which process this is and of how many: accelerate and torchrun, and three kinds of MPI."""

_LONGEST_WAIT: Final = timedelta(hours=12)
"""For the first process, which converts while the others wait. One that died ends that at once."""


class LostProcess(EdgeQKVError):
    """Another process, with which this one computed, is gone; what ended it was said there."""


def follows() -> bool:
    """Whether this process was launched beside another one that leads, which writes and speaks for all.

    Told by the environment, before anything large is imported.
    """
    return any(os.environ.get(name, "0") not in ("", "0") for name in _RANKS)


def joined() -> Processes:
    """This process together with those that were launched with it. Each of them has to call this.

    Raises:
        MissingExtra: there are others, and accelerate, which they need, is not installed.
        InputError: there are others, and accelerate cannot bring them together.
    """
    counts = (os.environ.get(name, "") for name in _COUNTS)
    count = max((int(each) for each in counts if each.isdecimal()), default=1)
    if count == 1 and find_spec("accelerate") is None:
        return Alone()
    with needed_for("distillation in several processes"):
        import accelerate  # noqa: F401
    processes = _Accelerated()
    if processes.count != count:
        raise InputError(
            f"{count} processes were launched, and accelerate finds {processes.count}; "
            f"start them with accelerate launch, or one with python -m"
        )
    return processes


class Alone:
    """This process, on the CPU.

    Attributes:
        index, count: which of how many it is.
        device: where it computes.
    """

    index = 0
    count = 1
    device = torch.device("cpu")

    @property
    def leads(self) -> bool:
        """Whether it is the one that writes and speaks for all."""
        return self.index == 0

    def prepared(
        self, module: torch.nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        """Both, as they are to be trained; the first process's numbers are taken by all."""
        return module, optimizer

    def computing(self) -> AbstractContextManager[Any]:
        """Around a forward pass: in the precision that was configured."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add to the gradients: the mean of what the processes' losses have, unless it is `for_itself`."""
        loss.backward()  # type: ignore[no-untyped-call]

    def for_itself(self, module: torch.nn.Module) -> AbstractContextManager[Any]:
        """Inside, gradients are not exchanged: more is to be added to them."""
        return nullcontext()

    def clip(self, module: torch.nn.Module, most: float) -> None:
        """Shorten the gradient, where it is longer than this."""
        torch.nn.utils.clip_grad_norm_(module.parameters(), most)

    def total(self, values: Tensor) -> Tensor:
        """The sum of what each process has."""
        return values

    def from_first(self, value: T) -> T:
        """What the first process gives; the others get it."""
        return value

    def state(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> State:
        """The numbers and the optimizer's, by parameters' names, the same for any number of processes.

        Every process has to ask; the first one is told.
        """
        names = [name for name, _ in module.named_parameters()]
        found = optimizer.state_dict()
        return {
            "numbers": {name: each.detach() for name, each in module.named_parameters()},
            "optimizer": {names[index]: each for index, each in found["state"].items()},
        }

    def restore(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer, state: State | None) -> None:
        """Go on from a `state`, which the first process has."""
        assert state is not None
        with torch.no_grad():
            for name, each in module.named_parameters():
                each.copy_(state["numbers"][name])
        groups = optimizer.state_dict()["param_groups"]
        own = {index: state["optimizer"][name] for index, (name, _) in enumerate(module.named_parameters())}
        optimizer.load_state_dict({"state": own, "param_groups": groups})

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Around what they compute together.

        Raises:
            LostProcess: another one is gone.
            InputError: the device has too little memory.
        """
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"{self.device} has too little memory for this; distil in more processes, or with a smaller "
                f"--distill-batch"
            ) from error

    def end(self) -> None:
        """Part from the others."""


Processes = Alone
"""What `joined` returns."""


class _Accelerated(Alone):
    """As accelerate was configured: a CPU or a GPU, several of them, or machines."""

    def __init__(self) -> None:
        from accelerate import Accelerator, InitProcessGroupKwargs

        self._accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_LONGEST_WAIT)],
        )
        self.index, self.count = self._accelerator.process_index, self._accelerator.num_processes
        self.device = self._accelerator.device

    def prepared(
        self, module: torch.nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        return tuple(self._accelerator.prepare(module, optimizer))

    def computing(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self._accelerator.autocast()
        return context

    def backward(self, loss: Tensor) -> None:
        self._accelerator.backward(loss)

    def for_itself(self, module: torch.nn.Module) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self._accelerator.no_sync(module)
        return context

    def clip(self, module: torch.nn.Module, most: float) -> None:
        self._accelerator.clip_grad_norm_(module.parameters(), most)

    def total(self, values: Tensor) -> Tensor:
        total: Tensor = self._accelerator.reduce(values.to(self.device))
        return total.cpu()

    def from_first(self, value: T) -> T:
        from accelerate.utils import broadcast_object_list

        given: list[T] = broadcast_object_list([value])
        return given[0]

    def state(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> State:
        if self.count == 1:
            found = super().state(module, _bare(optimizer))
            return {**found, "numbers": {name: each.cpu() for name, each in found["numbers"].items()}}
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        numbers, optimizers = get_state_dict(module, _bare(optimizer), options=options)
        return {"numbers": numbers, "optimizer": optimizers.get("state", {})}

    def restore(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer, state: State | None) -> None:
        if self.count == 1:
            super().restore(module, _bare(optimizer), state)
            return
        # Not `set_state_dict`, which takes what a process gives for what there is, and others give nothing.
        from torch.distributed.checkpoint import state_dict as sharing

        options = sharing.StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        optimizer = _bare(optimizer)
        given: State = {}
        if state is not None:
            groups = [{**group, "params": list(state["numbers"])} for group in optimizer.state_dict()["param_groups"]]
            given = {"state": state["optimizer"], "param_groups": groups}
        sharing.set_model_state_dict(module, {} if state is None else state["numbers"], options=options)
        sharing.set_optimizer_state_dict(module, optimizer, given, options=options)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        try:
            with super().guarded():
                yield
        except RuntimeError as error:
            if self.count == 1 or not _of_connection(error):
                raise
            raise LostProcess(
                f"another of the {self.count} processes that distil has ended; what it said before is the reason. "
                f"The same command goes on from what was kept"
            ) from error

    def end(self) -> None:
        self._accelerator.end_training()


def _bare(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer itself, which accelerate's wraps."""
    bare: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return bare


def _of_connection(error: RuntimeError) -> bool:
    """Whether it is of torch's ways to talk to other processes, some of which raise no type of their own."""
    return isinstance(error, torch.distributed.DistError) or any(
        name in str(error).lower() for name in ("gloo", "nccl", "connection")
    )
