"""
`vault-pool demo`: a web application under load, while its credentials rotate.
"""
