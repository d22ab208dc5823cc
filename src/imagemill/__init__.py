"""imagemill: from raw labelled images to compared, registered models."""

__version__ = "0.1.0"
