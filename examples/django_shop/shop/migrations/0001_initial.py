"""
The first tables.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    """
    Items with a name.
    """

    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="Item",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.TextField()),
            ],
        ),
    ]
