"""Tasks from local files, from data sets of the Hugging Face hub, and from rows at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from hone.seats import settings
from hone.synthesis.provenance import digest_of_file
from hone.tasks.rows import Rows
from hone.tasks.tables import Table, files_of, join_table, read_table


@settings
class Join:
    """Another file with more fields of the same rows.

    Attributes:
        path: As in :class:`Files`, of the same formats by suffix.
        by: The field that both files have and by which rows find each other. (Not "on", which YAML reads as true.)
    """

    path: str | list[str]
    by: str


@settings
class Files(Rows):
    r"""Tasks from JSON Lines, JSON, CSV, TSV or Parquet files.

    GSM8K, whose answers end in ``#### 72``::

        files:
          path: gsm8k/train.jsonl
          prompt: "{question}"
          answer: "{answer}"
          answer_pattern: '####\s*(.+)$'

    Berkeley function calling, with questions and answers in two files::

        files:
          path: bfcl/BFCL_v4_simple_python.jsonl
          join: {path: bfcl/answers_simple_python.jsonl, by: id}
          id: "{id}"
          prompt: "{question[0][0].content}\n\nFunctions: {function!j}"
          answer: "{ground_truth}"
          meta: [function]

    Attributes:
        path: A file, a glob pattern, or a list of them, relative to the working directory.
        format: "auto" goes by the suffix.
        rows_key: Where a JSON file is an object, the key of its list of rows.
        join: A second file, merged row by row.
    """

    path: str | list[str]
    format: Literal["auto", "jsonl", "json", "csv", "tsv", "parquet"] = "auto"
    rows_key: str | None = None
    join: Join | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path:
            raise ValueError("path: no files")
        if self.name is None:
            self.name = Path(self.path if isinstance(self.path, str) else self.path[0]).stem

    def read(self) -> Table:
        """Read the files, and merge the joined ones."""
        table = read_table(self.path, self.format, self.rows_key)
        return join_table(table, read_table(self.join.path), self.join.by) if self.join else table

    def fingerprint(self) -> dict[str, str]:
        """The files that are read, and hashes of what is in them."""
        paths = [self.path] if isinstance(self.path, str) else [*self.path]
        joined = [] if self.join is None else self.join.path
        paths += [joined] if isinstance(joined, str) else joined
        return {str(file): digest_of_file(file) for pattern in paths for file in files_of(pattern)}


@settings
class Hub(Rows):
    """Tasks from a data set of the Hugging Face hub, or from a local folder of the same layout.

    ::

        hub: {dataset: openai/gsm8k, subset: main, split: train, prompt: "{question}", answer: "{answer}"}

    A column has one type there: nested fields that a row lacks come back as null.

    Attributes:
        dataset: As in ``datasets.load_dataset``: "owner/name", or the path of a folder.
        subset: The configuration of a data set that has several.
        split: "train", "test", or a slice such as "train[:10%]".
        revision: Branch, tag or commit; the newest if there is none.
    """

    dataset: str
    subset: str | None = None
    split: str = "train"
    revision: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is None:
            self.name = f"{self.dataset}/{self.split}"

    def read(self) -> Table:
        """Download (or find in the cache) and open the split."""
        from datasets import load_dataset  # Slow to import, and only these rows need it.

        rows = load_dataset(self.dataset, self.subset, split=self.split, revision=self.revision)
        return Table(rows, lambda i: f"{self.dataset} ({self.split}): row {i}")


@settings
class Inline(Rows):
    """Tasks from rows that the configuration or the program itself holds.

    ::

        Inline(rows=[{"q": "2 + 2 =", "a": "4"}], prompt="{q}", answer="{a}")

    Attributes:
        rows: One mapping of fields a task.
    """

    rows: list[dict[str, Any]]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.name = self.name or "inline"

    def read(self) -> Table:
        """The rows as they are."""
        return Table(self.rows, lambda i: f"rows[{i}]")
