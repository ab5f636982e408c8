"""A study in the formats of other programs: CSV, AnnData, NIfTI, ITK, DICOM, tied together as an RO-Crate."""
