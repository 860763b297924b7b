"""Data sets of the Hugging Face hub, read through the `datasets` library.

`hf:org/name` names one; so does `hf:PATH` with a folder that holds a clone of its repository or
what `Dataset.save_to_disk` wrote. Repository code is never run: `datasets` 4 refuses to.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from adaptvis.errors import DataError
from adaptvis.tasks.files import Entry
from adaptvis.tasks.images import decode_image

__all__ = ["HubRows", "read_hub"]


@dataclass(frozen=True)
class HubRows:
    """One split of a hub data set: its rows without pictures, and the pictures on demand.

    name: data set, configuration and split, as error messages and run files show it.
    """

    name: str
    entries: list[Entry]
    pictures: Any

    @property
    def digest(self) -> str:
        """A short digest of all rows, pictures left out."""
        result = hashlib.sha256()
        for entry in self.entries:
            result.update(json.dumps(dict(entry.fields), sort_keys=True, default=str).encode())
        return result.hexdigest()[:16]

    def images(
        self, index: int, column: str = "image", *, upright: bool = True
    ) -> partial[tuple[Image.Image, ...]]:
        """What opens the picture of a row, in RGB, when it is called.

        It does not hold the entries: it travels to other processes with every question.

        Raises:
            DataError: on calling, the row has no picture, or it cannot be decoded; the message
                names the row.
        """
        return partial(_picture, self.pictures, self.name, index, column, upright)


def _picture(
    pictures: Any, name: str, index: int, column: str, upright: bool
) -> tuple[Image.Image, ...]:
    where = f"The image of {name}, row {index}"
    stored = pictures[index][column]
    content = stored.get("bytes") if isinstance(stored, dict) else None
    if not content:
        raise DataError(f"{where} is not embedded in the data set; read it from a folder")
    return (decode_image(content, where, upright=upright),)


def read_hub(
    hub: str, split: str, configuration: str | None = None, images: Sequence[str] = ()
) -> HubRows:
    """One split of a data set on the hub, or of a local copy.

    Args:
        hub: `org/name`, or the path of a local copy.
        images: the columns that hold pictures; they must be there.

    Raises:
        DataError: `datasets` is not installed, or the data set cannot be loaded or lacks a column.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"Reading hf:{hub} needs the library datasets: pip install 'adaptvis[datasets]'"
        ) from None
    name = f"hf:{hub} ({configuration + ', ' if configuration else ''}split {split})"
    try:
        table = _load(hub, configuration, split)
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"{name} cannot be loaded: {reason}") from None
    columns = Entry(dict.fromkeys(table.column_names), name)
    for column in images:
        columns.value(column)
        if not isinstance(table.features[column], datasets.Image):
            raise DataError(f"{name}: the column {column!r} does not hold pictures")
    # Undecoded: pictures are decoded one by one, with our own limits and errors.
    for column, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
    rest = [column for column in table.column_names if column not in images]
    rows = table.select_columns(rest)
    entries = [Entry(row, f"{name}, row {index}") for index, row in enumerate(rows)]
    return HubRows(name, entries, table.select_columns(list(images)))


def _load(hub: str, configuration: str | None, split: str) -> Any:
    import datasets

    folder = Path(hub)
    if any((folder / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
        stored = datasets.load_from_disk(str(folder))
        return stored[split] if isinstance(stored, datasets.DatasetDict) else stored
    return datasets.load_dataset(hub, configuration, split=split)
