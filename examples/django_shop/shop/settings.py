"""
Settings of a Django project on rotating credentials: ENGINE and VAULT are what is new.
"""

import os

SECRET_KEY = os.environ.get("SECRET_KEY", "only for development")
DEBUG = False
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
INSTALLED_APPS = ["vault_pool.django", "shop"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

DATABASES = {
    "default": {
        "ENGINE": "vault_pool.django",
        "HOST": os.environ.get("DB_HOST", "localhost"),
        "PORT": os.environ.get("DB_PORT", ""),
        "NAME": os.environ.get("DB_NAME", "shop"),
        "VAULT": {
            # The address of Vault and the login are in Vault's own variables: VAULT_ADDR, VAULT_ROLE_ID, …
            "ROLE": os.environ.get("DB_ROLE", "shop"),
            "MOUNT_POINT": os.environ.get("DB_MOUNT_POINT", "database"),
            # Tables belong to it, whichever dynamic role made them.
            "ASSUME_ROLE": os.environ.get("DB_OWNER", "shop_owner"),
            "MIN_SIZE": 2,
            "MAX_SIZE": 8,
        },
    }
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": os.environ.get("LOG_LEVEL", "WARNING")},
}

if "DB_USER" in os.environ:
    # A laptop without a Vault.
    DATABASES["default"]["VAULT"] |= {
        "SOURCE": "fixed",
        "USER": os.environ["DB_USER"],
        "PASSWORD": os.environ["DB_PASSWORD"],
        "ASSUME_ROLE": os.environ.get("DB_OWNER"),
    }
