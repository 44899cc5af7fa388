"""The console: pages for people who look after models. Read-only without the control token."""
