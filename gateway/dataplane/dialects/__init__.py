"""What each kind of client sends and how it is answered: one module or folder per kind."""
