"""Where keys are kept: SQLite, PostgreSQL, or files that others write.

An SQL store has a feed and a repository over one database; a file has a feed alone. The seams are
in `keys.store`; following a store belongs to `keys.following`.
"""
