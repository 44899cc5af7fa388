"""The migrations, oldest first by their numbers. One that was released is never edited."""
