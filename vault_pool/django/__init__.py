"""
Django: ``ENGINE = "vault_pool.django"``, and the settings of the pool in ``DATABASES[alias]["VAULT"]``.

In ``INSTALLED_APPS`` it adds system checks of these settings; the engine works without that.
"""
