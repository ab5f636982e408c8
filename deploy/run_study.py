"""Run a study from a script, as a scheduler of jobs would: connect, run, say what happened by the exit code.

    python deploy/run_study.py STUDY [--scheduler tls://host:8786]

Exit codes: 0 all done; 1 finished, some volumes are in quarantine; 2 bad input or settings; 3 stopped by its
surroundings (disk full, cluster lost): start it again and it goes on where it was.
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from popclust.dataflow.client import connect
from popclust.dataflow.pipeline import run
from popclust.errors import InputError, SurroundingsError
from popclust.study import Study


def main() -> int:
    """Run the study; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--scheduler", default="")
    parser.add_argument("--until", default="", help="end after this stage")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    try:
        study = Study.open(arguments.study)
        with connect(arguments.scheduler, study.settings.compute) as client:
            if client is not None:
                console.print(f"dashboard: {client.dashboard_link}")
            flow = run(study, client, until=arguments.until, console=console)
    except InputError as error:
        console.print(f"error: {error}", soft_wrap=True)
        return 2
    except SurroundingsError as error:
        console.print(f"stopped: {error}", soft_wrap=True)
        return 3
    for row in flow.quarantine.rows.values():
        console.print(f"in quarantine: {row['volume_id']} at {row['stage']}: {row['message']}")
    return 1 if len(flow.quarantine) else 0


if __name__ == "__main__":
    sys.exit(main())
