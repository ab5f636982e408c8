"""What a task does on a worker: make the part of a volume and publish it. Runs without Dask as well."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from popclust.dataflow.failure import disk_trouble, write_log
from popclust.dataflow.stage import Stage
from popclust.dataflow.stages import stage_named
from popclust.dataflow.workers import Ticket, check_myself
from popclust.errors import InputError, SurroundingsError, VolumeError
from popclust.parts import WHOLE, Done
from popclust.study import Study


def logged(study: Study, ticket: Ticket, function: Callable[..., Any], *args: Any) -> Any:
    """Call a task's function; the traceback of what nobody foresaw goes beside the key, for its owner alone."""
    check_myself(ticket)
    try:
        return function(*args)
    except (VolumeError, InputError, SurroundingsError):
        raise
    except Exception as error:
        if not disk_trouble(error):
            write_log(error, Path(study.secret_path("log")))
        raise


def perform(study: Study, stage_name: str, recipe: str, volume_id: str, marker: str) -> Done:
    """Make one volume's part of a stage and publish it; what it is made from is compared with its digest first."""
    stage = stage_named(stage_name)
    if stage.task is None:
        raise TypeError(f"stage {stage_name} has no task for one volume")
    _check_read(study, stage, volume_id)
    files = stage.files_of(volume_id)
    study.begin(stage_name, volume_id, files)
    made = stage.task(study, volume_id)
    return study.publish(stage_name, marker, made, volume_id, recipe=recipe, files=files)


def _check_read(study: Study, stage: Stage, volume_id: str) -> None:
    for name in stage.reads:
        upstream = stage_named(name)
        if upstream.is_per_volume:
            study.check_part(name, volume_id, upstream.files_of(volume_id))
        elif not study.model_url:  # a frozen model is compared with its digest when it is opened
            _check_shared(study, name, study.learnt_marker(name))


@lru_cache(maxsize=8)
def _check_shared(study: Study, name: str, marker: str) -> None:
    """Once per process for as long as the marker stays."""
    study.check_part(name, WHOLE, stage_named(name).results)
