"""Groups of patients that nobody labelled, from routine CT, tested against radiology reports."""

__version__ = "0.1.0"
