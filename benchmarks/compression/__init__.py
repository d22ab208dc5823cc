"""Compressed nets beside their parents and beside the plain use of other tools."""
