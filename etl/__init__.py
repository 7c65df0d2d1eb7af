"""Completes call detail records (CDRs) of PIOPIY (TeleCMI): request IDs in, one SQL row per leg out."""

__version__ = "0.1.0"
