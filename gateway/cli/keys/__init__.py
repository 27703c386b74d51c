"""`gateway keys`: create, list, change, delete, rotate and hash keys."""
