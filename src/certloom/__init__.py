"""Certloom: the orchestration layer for certificates."""

__version__ = "0.1.0"
