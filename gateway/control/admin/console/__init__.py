"""The console: pages for people on the admin address, and how people sign in to it."""
