"""Telling people by email and programs by webhook: what is to be told is durable with what it tells of."""

from certloom.notifications.mail import Mailer
from certloom.notifications.notices import Notices
from certloom.notifications.webhooks import Webhooks

__all__ = ["Mailer", "Notices", "Webhooks"]
