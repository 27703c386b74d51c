"""The commands: thin. Each reads its arguments, calls a room, and says how it ended."""
