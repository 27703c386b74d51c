"""The sender: sends real sample telemetry as SDKs and Collectors do, and explains every response.

`gateway send` uses it. It stores nothing and retries nothing: it shows the response to one request.
"""

from __future__ import annotations
