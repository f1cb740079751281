"""
A change that a later dynamic role makes to a table of an earlier one.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """
    Give things a name.
    """
    op.add_column("things", sa.Column("name", sa.Text, nullable=False))


def downgrade() -> None:
    """
    Take it away.
    """
    op.drop_column("things", "name")
