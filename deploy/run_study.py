"""Run a study from a script, as a scheduler of jobs would: connect, run, say what happened by the exit code.

    python deploy/run_study.py STUDY [--scheduler tls://host:8786]

Exit codes: 0 all done; 1 finished, some volumes are in quarantine; 2 bad input or settings; 3 stopped by its
surroundings (disk full, cluster lost): start it again and it goes on where it was; 4 a fault of popclust's own, with
its traceback in the log folder beside the study's key.
"""

from __future__ import annotations

import argparse
import sys

from popclust.dataflow.client import connect
from popclust.dataflow.failure import DONE, QUARANTINED, exit_code, log_folder_of, plain_console
from popclust.dataflow.pipeline import run
from popclust.study import Study


def main() -> int:
    """Run the study; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--scheduler", default="")
    parser.add_argument("--until", default="", help="end after this stage")
    arguments = parser.parse_args()
    console = plain_console()

    def work() -> int:
        study = Study.open(arguments.study)
        with connect(arguments.scheduler, study.settings.compute) as client:
            flow = run(study, client, until=arguments.until, console=console)
        return QUARANTINED if flow.n_quarantined else DONE

    return exit_code(work, console, log_folder=lambda: log_folder_of(arguments.study))


if __name__ == "__main__":
    sys.exit(main())
