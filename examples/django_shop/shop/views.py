"""
Views that read, write, stream, and tell who they are in the database.
"""

import os
import threading
import time

from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse

from shop.models import Item


def items(request: HttpRequest) -> HttpResponse:
    """
    Add an item (POST), or count them.
    """
    if request.method == "POST":
        with transaction.atomic():
            item = Item.objects.create(name=request.POST.get("name", "thing"))
        return JsonResponse({"id": item.pk}, status=201)
    return JsonResponse({"items": Item.objects.count()})


def whoami(_request: HttpRequest) -> HttpResponse:
    """
    Tell who serves this request.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), current_user, session_user")
        backend, role, user = cursor.fetchone()
    return JsonResponse({"pid": os.getpid(), "backend": backend, "role": role, "user": user})


def stream(_request: HttpRequest) -> StreamingHttpResponse:
    """
    Send names as they come from the database.
    """
    return StreamingHttpResponse(f"{name}\n" for name in Item.objects.values_list("name", flat=True)[:50].iterator())


def slow(_request: HttpRequest) -> HttpResponse:
    """
    Keep a transaction open for a while.
    """
    with transaction.atomic():
        Item.objects.first()
        time.sleep(0.5)
        Item.objects.count()
    return HttpResponse(threading.current_thread().name)


def rotate(_request: HttpRequest) -> HttpResponse:
    """
    Rotate the credential of this process now; for experiments.
    """
    connection.pool.open()
    connection.pool.rotate()
    return JsonResponse({"pid": os.getpid(), "generation": connection.pool.status().generation})
