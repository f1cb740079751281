"""
Tests of the project, on a test database that Django makes: `manage.py test`.
"""

from django.test import TestCase, TransactionTestCase

from shop.models import Item


class ItemTests(TestCase):
    """
    What is written in a test is rolled back after it.
    """

    def test_an_item_is_counted(self) -> None:
        """An item that is posted is there."""
        assert self.client.post("/items", {"name": "lamp"}).status_code == 201
        assert self.client.get("/items").json() == {"items": 1}


class StreamTests(TransactionTestCase):
    """
    Tests with real transactions.
    """

    def test_names_are_streamed(self) -> None:
        """A streamed answer reads the database after the view has returned."""
        Item.objects.create(name="lamp")
        assert b"".join(self.client.get("/stream").streaming_content) == b"lamp\n"
