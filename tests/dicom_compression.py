"""Files whose pixels are compressed by gdcm, their headers as they were."""

from __future__ import annotations

from pathlib import Path

import gdcm

SYNTAXES = {
    "jpeg_2000": gdcm.TransferSyntax.JPEG2000Lossless,
    "jpeg_ls": gdcm.TransferSyntax.JPEGLSLossless,
    "jpeg_lossless": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    "run_lengths": gdcm.TransferSyntax.RLELossless,
}


def compress(path: Path, syntax: str) -> None:
    """Compress a file in place, its header as it is."""
    gdcm.Trace.WarningOff()
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read():
        raise RuntimeError(f"{path}: gdcm cannot read it")
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(SYNTAXES[syntax]))
    change.SetInput(reader.GetImage())
    if not change.Change():
        raise RuntimeError(f"{path}: gdcm cannot compress it")
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    if not writer.Write():
        raise RuntimeError(f"{path}: gdcm cannot write it")
