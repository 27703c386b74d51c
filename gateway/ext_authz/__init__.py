"""Verdicts on requests that another proxy has received (Envoy's external authorization)."""
