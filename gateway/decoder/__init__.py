"""The process that counts the items of samples: `python -m gateway.decoder`. Control starts it.

What it reads is whatever senders sent. It has no secrets, opens nothing, and may be killed.
"""
