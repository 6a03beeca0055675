"""The addresses of the site."""

from django.contrib import admin
from django.contrib.staticfiles.urls import staticfiles_urlpatterns
from django.urls import path
from notes import views

urlpatterns = [
    path("", views.index, name="index"),
    path("admin/", admin.site.urls),
    path("upload/", views.upload, name="upload"),
    path("uploads/<int:pk>/", views.download, name="download"),
    path("big/", views.big, name="big"),
    path("notes.csv", views.notes_csv, name="csv"),
    path("notes.ndjson", views.notes_ndjson, name="ndjson"),
    path("events/", views.events, name="events"),
    path("api/notes/", views.api_notes, name="api"),
    path("slow/", views.slow, name="slow"),
    path("status/", views.status, name="status"),
    path("health/", views.health, name="health"),
    path("broken/", views.broken, name="broken"),
    *staticfiles_urlpatterns(),  # with DEBUG alone
]
