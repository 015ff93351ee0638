"""The command line: one file a group of commands, each options → dataclass → one call → print. Nothing heavy is imported here."""
