"""Connections to backends: which request goes where."""
