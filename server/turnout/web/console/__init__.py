"""The console: web pages for operators. Read-only without the control token."""
