"""Before a protocol is known: sockets, PROXY headers, TLS handshakes, protocol detection."""
