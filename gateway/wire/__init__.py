"""Bytes to protocol elements and back. No I/O, no asyncio, no policy."""
