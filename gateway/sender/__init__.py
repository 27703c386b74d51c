"""The sender: real sample telemetry, sent as SDKs and Collectors do, and every answer explained.

`gateway send` is made of it. It keeps nothing and retries nothing: it shows what one request gets.
"""

from __future__ import annotations
