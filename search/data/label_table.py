"""Class labels from a CSV file, as spreadsheets and labelling tools write it."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from search.data.entry_fields import list_texts
from search.data.frames import Sampling
from search.data.ground_truth import BadTruth, ClassTruth
from search.data.labelled_images import ImageRoot, labelled_classes, sample_indices

DELIMITERS = (",", ";", "\t")
PATH_COLUMNS = (("path",), ("file", "filename", "file_name", "image", "image_path"))
"""Names of the column of images: a later group counts only without a column of an earlier one."""
LABEL_COLUMNS = (
    ("label_index", "label_indices"),
    ("label", "class", "class_id", "class_index", "label_id", "target"),
    ("label_name", "class_name"),
)
"""The same for the column of labels."""


@dataclass(frozen=True)
class LabelRow:
    """A line of the file."""

    line: int
    path: str
    label: str


@dataclass(frozen=True)
class LabelTable:
    """The rows of a CSV file with labels."""

    file: Path
    rows: tuple[LabelRow, ...]
    """Ordered by path, as a folder's frames are."""
    column: str
    """The name of the column of labels."""
    names: tuple[str, ...]
    """The names of the classes, class 0 first; none if the user gives none."""

    def classes(self, row: LabelRow) -> frozenset[int]:
        """Return the correct classes of a row.

        Raises:
            BadTruth: the label is malformed, or no class has its name.
        """
        texts = [row.label]
        if self.column == "label_indices":
            texts = re.split("[;,]", row.label) if row.label.strip() else []
        return frozenset(self._class(text.strip(), row) for text in texts)

    def _class(self, text: str, row: LabelRow) -> int:
        if text in self.names:
            return self.names.index(text)
        whole = re.fullmatch(r"([0-9]{1,9})(\.0+)?", text, re.ASCII)
        if whole and (not self.names or int(whole[1]) < len(self.names)):
            return int(whole[1])
        raise BadTruth(
            f"labels {self.file}: line {row.line}: {self.column} {row.label!r} of {row.path} "
            f"{self._requirement()}"
        )

    def _requirement(self) -> str:
        if self.names:
            return (
                f"must be a number below {len(self.names)} or one of `classes`: "
                f"{list_texts(self.names)}"
            )
        if self.column == "label_indices":
            return "must be whole numbers separated by ; as in 3;17, or empty"
        return (
            "must be a whole number; for names of classes give `classes`, their list in the "
            "network's order"
        )


def csv_truth(
    file: Path, sampling: Sampling, names: Sequence[str] = (), root: ImageRoot | None = None
) -> ClassTruth:
    """Read a CSV file with the columns `path` and `label_index` or `label_indices`.

    Paths are relative to the file, or to `root`. `label_indices` lists all correct classes of a
    frame (3;17); a frame without any is left out. Labels may also be among `names`, the names of
    the classes, class 0 first. Other usual names of the columns are accepted, and a semicolon or a
    tab as delimiter.

    Raises:
        BadTruth: the file is missing or malformed, names images that do not exist, or gives an
            image two labels.
    """
    table = _read_table(file, tuple(names))
    root = root or ImageRoot(file.parent)
    classes = {row.line: table.classes(row) for row in table.rows}
    _check_repeated(table, classes)
    rows = [table.rows[i] for i in sample_indices(len(table.rows), sampling, file)]
    return labelled_classes(
        [
            (root.image_path(row.path, f"labels {file}: line {row.line}"), classes[row.line])
            for row in rows
        ],
        file,
        root.folder,
        table.names,
    )


def _read_table(file: Path, names: tuple[str, ...]) -> LabelTable:
    text = _read_text(file)
    header = text.split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise BadTruth(
            f"labels {file}: line {reader.line_num}: cannot be read ({error})"
        ) from error
    columns = [cell.strip().lower() for cell in lines[0][1]] if lines else []
    path, label = _column(columns, PATH_COLUMNS), _column(columns, LABEL_COLUMNS)
    if path is None or label is None or len(lines) < 2:
        columns_text = f"its columns are {list_texts(columns)}" if columns else "it is empty"
        raise BadTruth(
            f"labels {file}: needs a header line with path,label_index or path,label_indices, "
            f"and rows; {columns_text if len(lines) != 1 else f'{columns_text}, without a row'}"
        )
    rows = [_row(file, line, (cells, path, label)) for line, cells in lines[1:]]
    rows.sort(key=lambda row: row.path)
    return LabelTable(file, tuple(rows), columns[label], names)


def _read_text(file: Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with a byte-order mark."""
    try:
        data = file.read_bytes()
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if wide else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadTruth(f"labels {file}: cannot be read ({error})") from error


def _column(columns: Sequence[str], groups: Sequence[Sequence[str]]) -> int | None:
    """Return the index of the only column of the first group that has any; None without one."""
    for group in groups:
        indices = [k for k, column in enumerate(columns) if column in group]
        if indices:
            return indices[0] if len(indices) == 1 else None
    return None


def _row(file: Path, line: int, cells: tuple[Sequence[str], int, int]) -> LabelRow:
    values, path, label = cells
    if max(path, label) >= len(values):
        raise BadTruth(f"labels {file}: line {line}: has no label or no path")
    return LabelRow(line, values[path], values[label])


def _check_repeated(table: LabelTable, classes: Mapping[int, frozenset[int]]) -> None:
    """Check that an image that is listed twice has the same label each time."""
    first_rows: dict[str, LabelRow] = {}
    for row in sorted(table.rows, key=lambda row: row.line):
        first = first_rows.setdefault(os.path.normpath(row.path.replace("\\", "/")), row)
        if classes[first.line] != classes[row.line]:
            raise BadTruth(
                f"labels {table.file}: lines {first.line} and {row.line} give {row.path} the "
                f"labels {first.label!r} and {row.label!r}: list each image once"
            )
