"""The version of this package; `phenaki.__version__` is the public name."""

__version__ = "0.1.0"
