"""Where a gateway says which revision its workers have confirmed, and how a command waits for it.

One module for gateways on this host (`lock_files`), one for gateways that share a PostgreSQL
(`notifications`). Neither writes to the store. The seam is `keys.store.Confirmations`.
"""
