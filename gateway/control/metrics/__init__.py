"""What is counted and how it is exposed: workers' reports, gauges of control, the refusal log."""
