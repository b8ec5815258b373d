"""The two renames that Python's own lack: one that replaces nothing, and one that lets two names change places.

Linux and macOS have both as one step that nobody sees half done. Elsewhere, and on file systems that know neither, the
first is a check and a rename, and the second is refused.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["exchange", "rename_new"]

_LINUX: Final = {"new": 1, "exchange": 2}  # RENAME_NOREPLACE, RENAME_EXCHANGE
_MACOS: Final = {"new": 4, "exchange": 2}  # RENAME_EXCL, RENAME_SWAP
_HERE: Final = -100  # AT_FDCWD
_UNKNOWN: Final = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM}
"""What systems and file systems say that know no such rename. The last is what sandboxes answer to unknown calls."""


def rename_new(source: Path, target: Path) -> None:
    """Rename ``source``, unless something is at ``target``.

    Raises:
        FileExistsError: something is.
    """
    if _flagged(source, target, "new"):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)


def exchange(one: Path, other: Path) -> bool:
    """Let two names change places, both of which exist. False if the system cannot, and nothing was done."""
    return _flagged(one, other, "exchange")


def _flagged(one: Path, other: Path, how: str) -> bool:
    call = _system_call(how)
    if call is None:
        return False
    if call(os.fsencode(one), os.fsencode(other)) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNKNOWN:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def _system_call(how: str) -> Callable[[bytes, bytes], int] | None:
    """The call with its flag: takes two paths, and returns 0 or sets ``errno``."""
    call: Callable[..., int] | None = None
    before: tuple[int, ...] = ()
    if sys.platform == "linux":
        call, flag, before = getattr(_library(), "renameat2", None), _LINUX[how], (_HERE,)
    elif sys.platform == "darwin":
        call, flag = getattr(_library(), "renamex_np", None), _MACOS[how]
    if call is None:
        return None
    return lambda one, other: call(*before, one, *before, other, flag)


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
