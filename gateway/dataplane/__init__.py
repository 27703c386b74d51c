"""What a worker runs: listeners, server sides, the exchange, routes, credentials, keyring,
upstream pools, limits.
"""
