"""
What the shop has.
"""

from django.db import models


class Item(models.Model):
    """
    A thing with a name and a price.
    """

    name = models.TextField()
    price = models.DecimalField(max_digits=9, decimal_places=2, default=0)

    def __str__(self) -> str:
        return self.name
