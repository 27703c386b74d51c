"""The gateway's own traces, metrics and logs, sent over OTLP. Loaded only where that is set up."""
