"""The ways a run can be told no; each has its own exit code (:mod:`popclust.dataflow.failure`)."""


class InputError(ValueError):
    """Bad input or settings: one line that says what, where, what was wanted and how to mend it (exit code 2)."""


class VolumeError(Exception):
    """One volume cannot be processed: it goes to quarantine with this reason, the population goes on.

    Parameters
    ----------
    code : str
        A short stable code, for example ``"no_lung"``.
    message : str
        One line for a person. It goes into the study: no path, name, identifier or date from the source.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


class SurroundingsError(RuntimeError):
    """The surroundings failed (disk full, Dask cluster lost): run again to go on (exit code 3)."""


class DamagedError(SurroundingsError):
    """Something stored in the study is not as it was published (exit code 3, once it is withdrawn).

    Parameters
    ----------
    what : str
        The file or store, relative to the study, and what is wrong with it.
    stage, volume_id : str
        The part that it belongs to; empty where that is not known.
    """

    def __init__(self, what: str, stage: str = "", volume_id: str = "") -> None:
        super().__init__(what, stage, volume_id)
        self.what = what
        self.stage = stage
        self.volume_id = volume_id

    def __str__(self) -> str:
        return self.what
