"""
A change that a later dynamic role makes to a table of an earlier one.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    """
    Items get a price.
    """

    dependencies = [("shop", "0001_initial")]
    operations = [
        migrations.AddField("item", "price", models.DecimalField(decimal_places=2, default=0, max_digits=9)),
    ]
