"""Formats, which write files and read them back, and runtimes, which run them. Nothing heavy is imported here."""
