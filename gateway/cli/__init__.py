"""The commands: thin. Each reads its arguments, calls the room that does the work, and says how it ended."""
