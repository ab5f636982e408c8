"""The three ways a run can be told no; each has its own exit code in :mod:`popclust.cli`."""


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
