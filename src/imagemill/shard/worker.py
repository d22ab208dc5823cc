"""`python -m imagemill.shard.worker`: writes a shard for each line on standard input.

A line is a `ShardJob` as JSON, the answer a line too: a `WrittenShard`, or a user's error by its
name. When the one who asks is gone there are no more lines, and the process ends.
"""

import json
import os
import signal
import sys

from imagemill.errors import DiskError, UserError
from imagemill.shard.job import ShardJob
from imagemill.shard.write import write_shard


def main() -> None:
    """Answer until there is nobody left to answer to."""
    sys.meta_path.insert(0, _WithoutPandas())
    # Ctrl-C reaches the whole group; whoever asked ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    # What libraries print must not be taken for an answer.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        answers.write(json.dumps(answer(ShardJob(*json.loads(line)))) + "\n")
        answers.flush()


class _WithoutPandas:
    """Arrow, where archives need it, imports pandas to see whether a list is a series: 50 MB."""

    def find_spec(self, fullname: str, *_: object) -> None:
        """Pass on every module but that one."""
        if fullname == "pandas":
            raise ModuleNotFoundError("not needed here", name=fullname)


def answer(job: ShardJob) -> dict[str, object]:
    """What came of a job, or what was wrong."""
    try:
        return write_shard(job)._asdict()
    except UserError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except OSError as error:
        told = f"cannot write {job.target}: {error.strerror or error}"
        return {"error": DiskError.__name__, "message": told}


if __name__ == "__main__":
    main()
