"""HTTP/2 (RFC 9113): the caller's side and the backend's side."""
