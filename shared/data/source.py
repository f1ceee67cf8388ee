"""Where a public data set is from: how to cite it, on what terms it may be used, and where it is on this machine."""

import os
from dataclasses import dataclass
from pathlib import Path

from shared.errors import UserError
from shared.files import cache_folder


@dataclass(frozen=True)
class Source:
    """A public data set.

    Args:
        name: A key of ``DATASETS``.
        citation: Of the paper that users of the data set are asked to cite.
        terms: On which it may be used.
        get: How to get it, in words that begin with a verb; "" where it comes with this package.
        file: Name of the downloaded file within the data set's folder of the cache; "" where there is none.
    """

    name: str
    citation: str
    terms: str
    get: str = ""
    file: str = ""

    @property
    def variable(self) -> str:
        """The environment variable that names the data set's folder or zip."""
        return f"FEDHAR_{self.name.upper()}"

    @property
    def target(self) -> Path:
        """Where the downloaded file is kept."""
        return cache_folder() / self.name / self.file

    def find(self, path: Path | None) -> Path:
        """Return a path that is given, or what the environment variable names, or the downloaded file.

        Raises:
            UserError: None of them; says how to get the data set.
        """
        if path is not None:
            return path
        if named := os.environ.get(self.variable):
            return Path(named)
        if self.file and self.target.is_file():
            return self.target
        raise UserError(
            f"data set {self.name} is not on this machine: {self.get}, or set data.path (or {self.variable}) to its "
            "folder or zip"
        )
