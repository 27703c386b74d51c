"""HTTP/1.1 (RFC 9112): the caller's side and the backend's side."""
