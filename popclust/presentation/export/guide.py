"""The page that lies in an export and says what is what."""

from __future__ import annotations

from collections.abc import Sequence

from popclust.presentation.export.crate import Result

_DETAILS = {
    "tables": "Numbers are as the study has them, lists are JSON, what is missing is empty.",
    "population": """`X` counts visual words; `obs` has the cohort, quality and reported group; `obsm` the descriptors
  (`X_lda` ...), `X_topics`, the group of each volume under every grouping (rows of `uns["groupings"]`) and the terms of
  its report (rows of `uns["terms"]`; missing without a report). `uns["obs_dictionary"]` says what the columns mean.""",
    "atlas": "In the atlas's space.",
    "masks": "`<volume_id>_lungs.nii.gz`, on the grid on which the volume was registered.",
    "transforms": """`<volume_id>_to_atlas.h5` takes a point of the volume to the atlas, `atlas_to_<volume_id>.h5` the
  other way. ITK asks where a point of the new grid comes from: resample the volume onto the atlas's grid with
  `atlas_to_<volume_id>.h5`, something of the atlas onto the volume's with `<volume_id>_to_atlas.h5`. Points outside the
  grid of displacements, which covers the volume and the atlas with a margin, do not move.""",
    "fields": "Vectors along x, y, z in mm at the nodes of a coarse grid, linear in between.",
    "dicom": "Names are empty and UIDs made from pseudonyms: they do not lead back to the archive.",
}


def guide(results: Sequence[Result]) -> str:
    """The page, for these parts."""
    rows = [f"- `{r.path}`: {r.doc}. {_DETAILS[r.name]}" for r in results]
    return "\n".join([_HEAD, *rows, "", _TAIL])


_HEAD = """\
# An export of a popclust study

Everything is under pseudonyms; the key is not part of it. Positions are in millimetres: LPS (x to the left, y to the
back, z to the head) in transforms, fields and DICOM, RAS in NIfTI files, as their formats ask for.
"""
_TAIL = """\
- `run/`: the run card and the settings. `workflow/pipeline.py`: the order of the stages.
- `ro-crate-metadata.json`: all this for machines, a Workflow Run RO-Crate (https://w3id.org/ro/wfrun/workflow).
"""
