"""What a model is for, and its original class, as `optimum` resolves them for all of its exporters."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from edgeqkv.checkpoints.huggingface.quiet import quiet
from edgeqkv.errors import CheckpointError, UnsupportedError
from edgeqkv.extras import needed_for
from edgeqkv.reading import is_folder

__all__ = ["check_task", "original_class"]

_TASK: Final = "text-generation"
_LIBRARY: Final = "transformers"


def original_class(name: str, model_type: str | None = None) -> Any:
    """The class of that name, with which transformers generates text.

    Raises:
        CheckpointError: it is a class for something else, or none of this version's.
        MissingExtra: optimum or transformers is not installed.
    """
    manager = _manager()
    try:
        found = manager.get_model_class_for_task(_TASK, "pt", model_type, name, _LIBRARY)
        task = manager.infer_task_from_model(found)
    except (AttributeError, KeyError, ValueError) as error:
        raise CheckpointError(f"the original class {name} is none of this version of transformers ({error})") from error
    if task != _TASK:
        raise CheckpointError(f"{name} is for {task}, not for {_TASK}")
    return found


def check_task(directory: Path, task: str) -> None:
    """See that a model's library and task are those of what edgeqkv reads.

    Args:
        directory: the model; what is no directory of Hugging Face's is left to whoever reads it.
        task: what the model is said to be for, by any of its names; ``auto``: what its class is for.

    Raises:
        UnsupportedError: they are others.
        MissingExtra: optimum or transformers is not installed.
    """
    manager = _manager()
    asked = manager.map_from_synonym(task.removesuffix("-with-past"))
    if asked not in ("auto", _TASK):
        known = f"edgeqkv exports {_TASK}; leave out --task"
        if asked not in manager.get_all_tasks():
            raise UnsupportedError(f"the task '{task}' is none that optimum knows; {known}")
        raise UnsupportedError(f"the task '{task}' is not what edgeqkv exports a Hugging Face model for; {known}")
    if not is_folder(directory) or not (directory / "config.json").is_file():
        return
    with quiet("resolving a model's task"):
        try:
            library = manager.infer_library_from_model(str(directory))
        except (OSError, ValueError):
            return
    if library != _LIBRARY:
        raise UnsupportedError(f"{directory} is a model of the library {library}; edgeqkv exports those of {_LIBRARY}")


def _manager() -> Any:
    with quiet("resolving what a model is for"), needed_for("resolving what a model is for"):
        from optimum.exporters.tasks import TasksManager
    return TasksManager
