"""Following stores: all their keys in memory, and what workers must be told of each change."""
