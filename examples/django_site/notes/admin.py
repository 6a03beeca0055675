from django.contrib import admin
from django.http import HttpRequest

from .models import Note, Upload


@admin.register(Note)
class NoteAdmin(admin.ModelAdmin):
    list_display = ("title", "created")
    search_fields = ("title", "text")


@admin.register(Upload)
class UploadAdmin(admin.ModelAdmin):
    list_display = ("file", "size", "sha256", "created")
    readonly_fields = ("file", "size", "sha256")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False  # the form of the site does that
