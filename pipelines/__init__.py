"""Prefect flows, deployments and services: the wiring. No arithmetic and no file formats here."""
