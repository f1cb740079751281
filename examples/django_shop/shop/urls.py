"""
Where the views are.
"""

from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from shop import views

urlpatterns = [
    path("items", csrf_exempt(views.items)),
    path("whoami", views.whoami),
    path("stream", views.stream),
    path("slow", views.slow),
    path("rotate", csrf_exempt(views.rotate)),
]
