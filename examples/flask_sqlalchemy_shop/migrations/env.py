"""
Alembic's environment as `flask db init` makes it, in short: the engine is that of the application.
"""

from alembic import context
from flask import current_app

engine = current_app.extensions["migrate"].db.engine

with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=current_app.extensions["migrate"].db.metadata)
    with context.begin_transaction():
        context.run_migrations()
