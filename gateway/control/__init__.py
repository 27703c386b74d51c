"""What the control process runs: sockets, workers' lives, keys on their way, metrics, admin.

Everything slow or stateful is here, so that workers own nothing but the data path. `main` is the
one place where the parts are put together. Never imports `dataplane`: the two share `channel`,
`model`, `metrics` and `settings`.
"""
