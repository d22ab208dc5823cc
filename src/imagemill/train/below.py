"""`python -m imagemill.train.below PID MODULE ...`: run a module that ends with process PID.

However that one ends: a training whose stage was killed must not go on while the next run resumes
it.
"""

import runpy
import sys

from imagemill.loading.orphans import die_with_parent

if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
