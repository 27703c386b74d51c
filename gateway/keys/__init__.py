"""What a key is and where keys live: material, stores, and the service that hands them on.

Import the modules, not this package: workers use `keys.material` alone and must load no database.
"""
