"""Where a command meets its user: an error that the user can mend is one line."""

import os
import sys
from collections.abc import Callable


def run(job: Callable[[], object]) -> None:
    """Runs `job`; what the user can mend, a ValueError, is one line on standard error and exit code 2.

    With KNN_JAX_TRACEBACK set in the environment it is the whole traceback.
    """
    try:
        job()
    except ValueError as error:
        if os.environ.get("KNN_JAX_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
