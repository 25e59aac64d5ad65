"""Yuntai: an elastic compute cloud on ordinary servers."""

__version__ = "0.1.0"
