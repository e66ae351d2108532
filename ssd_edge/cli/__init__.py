"""The command line: `ssd-edge COMMAND`, one file per command."""
