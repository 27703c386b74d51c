"""What every room of the data path stands on. It imports no other room."""
