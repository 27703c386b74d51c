"""`gateway demo`: everything embedded, nothing to configure.

The gateway itself runs as it does in `gateway serve`; this room adds what a first try needs: free
ports, certificates, a first key, a backend that shows what arrives, and text to paste.
"""

from __future__ import annotations
