"""What every other part of control needs: background tasks, listening sockets, errors."""
