from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ...models import Note


class Command(BaseCommand):
    help = "Write some notes, for something to see."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("count", type=int)

    def handle(self, *args: Any, count: int, **options: Any) -> None:
        Note.objects.bulk_create(
            [Note(title=f"Note {number}", text="Nothing yet. " * 8) for number in range(1, count + 1)], batch_size=500
        )
        self.stdout.write(f"{count} notes written")
