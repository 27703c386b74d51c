"""The HTTP intake of StackState agents."""
