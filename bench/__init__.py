"""The product's bench: what one proxied request costs, beside the peers, on this machine.

Run as modules from a checkout (`python -m bench.cpu`); no part of the installed package.
"""
