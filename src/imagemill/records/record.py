"""What every JSON file between stages is made of."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from imagemill.errors import IntegrityError
from imagemill.records.writing import write_json


class Record(BaseModel):
    """A JSON file between stages. Unknown keys are kept: a newer writer may say more."""

    model_config = ConfigDict(extra="allow")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check a record.

        Raises:
            IntegrityError: the file is missing or does not say what it must.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise IntegrityError(f"{path} does not exist; `dvc repro` makes it") from None
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"]))
            raise IntegrityError(f"{path} is damaged at {where!r}: {fault['msg']}") from None

    def write(self, path: Path) -> None:
        """Write whole or not at all."""
        write_json(path, self.model_dump(mode="json"))
