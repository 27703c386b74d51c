"""Worker processes: started, observed, replaced and drained, and what is sent to them."""
