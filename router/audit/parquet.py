"""The door to pyarrow, which writes Parquet; it is an extra."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from router.errors import InvalidCall

_KINDS = {"TEXT": "string", "INTEGER": "int64", "REAL": "float64"}


def write_parquet(path: Path, columns: Mapping[str, str], batches: Iterable[list[tuple[Any, ...]]]) -> int:
    """Write rows, a batch of them at a time, with the kinds of the columns; returns how many.

    Raises
    ------
    InvalidCall
        pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InvalidCall(
            "file: Parquet needs pyarrow, which is not installed; run `pip install 'cascade-router[parquet]'`, or "
            "give a name that ends with .csv",
            argument="file",
        ) from None
    kinds = {name: getattr(pyarrow, _KINDS[kind])() for name, kind in columns.items()}
    schema = pyarrow.schema(list(kinds.items()))
    count = 0
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            arrays = [
                pyarrow.array([_fitting(value, columns[name]) for value in column], kind)
                for (name, kind), column in zip(kinds.items(), zip(*batch, strict=True), strict=True)
            ]
            writer.write_batch(pyarrow.record_batch(arrays, schema=schema))
            count += len(batch)
    return count


def _fitting(value: Any, kind: str) -> Any:
    """A value of the column's kind: SQLite keeps what it was given, so that an odd one may be of another."""
    if value is None or kind == "TEXT":
        return None if value is None else str(value)
    if isinstance(value, int | float):
        return int(value) if kind == "INTEGER" else float(value)
    return None
