"""Is this data fit to train on? One decode of each image, in processes of their own."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagemill.audit.stage import CLASS_BALANCE, CONTACT_SHEET, PAGE, REPORT, WARNINGS, audit

__all__ = ["CLASS_BALANCE", "CONTACT_SHEET", "PAGE", "REPORT", "WARNINGS", "audit"]


def __getattr__(name: str) -> Any:
    """The stage is imported when it is asked for: decoding processes do without."""
    if name in __all__:
        from imagemill.audit import stage

        return getattr(stage, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
