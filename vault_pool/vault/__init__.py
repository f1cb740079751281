"""
The way to Vault: requests, logins, and the life of the token that leases hang on.
"""
