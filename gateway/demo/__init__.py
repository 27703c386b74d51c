"""`gateway demo`: a complete setup without any configuration.

The gateway itself runs as in `gateway serve`. This package adds what a first try needs: free ports,
certificates, a first API key, a backend that shows what arrives, and text to paste.
"""

from __future__ import annotations
