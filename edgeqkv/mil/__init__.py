"""Reads and runs Core ML packages on any machine."""
