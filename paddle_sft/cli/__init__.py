"""The commands: each module parses, calls, reports. Nothing here is imported by another room."""
