"""Tokens of identity providers (JWTs): issuers and their keys, checking tokens, who sends."""
