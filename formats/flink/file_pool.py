"""The pool of open files, as readers of Flink's state know it."""

from __future__ import annotations

from formats.file_pool import FilePool, PooledFile

__all__ = ["FilePool", "PooledFile"]
