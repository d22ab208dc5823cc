"""Is this data fit to train on? One decode of each image, in processes of their own."""

from imagemill.audit.stage import CLASS_BALANCE, CONTACT_SHEET, PAGE, REPORT, WARNINGS, audit

__all__ = ["CLASS_BALANCE", "CONTACT_SHEET", "PAGE", "REPORT", "WARNINGS", "audit"]
