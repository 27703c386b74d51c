"""Start, reload, drain and end of a gateway; the one place where its parts are built."""
