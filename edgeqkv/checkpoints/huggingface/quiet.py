"""Keeping what transformers and its companions say about themselves off the user's terminal."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from edgeqkv.extras import needed_for

__all__ = ["quiet"]


@contextmanager
def quiet(purpose: str) -> Iterator[None]:
    """Inside, which needs transformers for ``purpose``, remarks, deprecations and bars of progress are dropped.

    What matters of them to a user of edgeqkv is an error of edgeqkv's.

    Raises:
        MissingExtra: transformers is not installed.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            with needed_for(purpose):
                from transformers.utils import logging as bars
            shown = bars.is_progress_bar_enabled()
            bars.disable_progress_bar()
            try:
                yield
            finally:
                if shown:
                    bars.enable_progress_bar()
    finally:
        logging.disable(disabled)
